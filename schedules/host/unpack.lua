-- unpack.lua - one column block a block, one row of K after the other; lanes are columns.
return schedule "unpack" {} (function(k, a, p)
  local f, from = weight_formats[p.w], weight_formats[p.from]
  local bits, q = packed_bits(p.from), { n = p.n, k = p.k, w = p.from, group = p.group }
  k:tiles(ceil_div(p.n, 16))
  local block = k:block(0)

  local function row_of(j) -- f32 [1,16]
    local line, i, g = j // from.unit, (j % from.unit):cast("s32"), j // p.group
    local shift = bits == 4 and (i % 4 * 2 + i // 4) * 4 or i * 8
    local code = (load_line(k, q, a.q, block, line) >> shift) & (1 << bits) - 1
    local zero = p.zeros and k:load(a.zero, { g, block * 16 }, 1, 16):cast("s32") or from.zero
    return (code - zero):f32() * k:load(a.scale, { g, block * 16 }, 1, 16):f32()
  end

  k:range(0, round_up(p.k, 16), f.unit, function(k0)
    local words = panel_words(f, function(i)
      return float_code(p.w, within_rows(k, p, k0 + i, function(row)
        return row_of(p.perm and k:load(a.perm, { row }) or row)
      end))
    end)
    store_line(k, p, a.w, block, k0 // f.unit, words)
  end)
end)
