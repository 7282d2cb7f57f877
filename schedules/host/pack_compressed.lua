-- pack_compressed.lua - one column block a block: 16 rows of the source, words transposed in registers (single words
-- where the order of columns is permuted).
return schedule "pack_compressed" {} (function(k, a, p)
  local f, bits = weight_formats[p.w], packed_bits(p.w)
  local per = 32 // bits
  k:tiles(ceil_div(p.n, 16))
  local block = k:block(0)
  local n0 = block * 16

  local function straight()
    k:range(0, round_up(p.k, 16) // per, 16, function(line)
      local words = k:load(a.packed, { n0, line }, 16, 16):transpose()
      store_lines(k, p, a.w, block, line, panel_words(f, function(i) return packed_element(words, i, bits) end),
                  round_up(p.k, 16) // per)
    end)
  end

  local function permuted()
    k:range(0, round_up(p.k, 16) // per, 1, function(line)
      local words = panel_words(f, function(i)
        return within_rows(k, p, line * per + i, function(j)
          local column = k:load(a.perm, { j })
          return packed_element(k:load(a.packed, { n0, column // per }, 16, 1):transpose(), column % per, bits)
        end)
      end)
      store_line(k, p, a.w, block, line, words)
    end)
  end

  (p.perm and permuted or straight)()
  k:range(0, weight_groups(p), 1, function(g)
    k:store(a.scale, { g, n0 }, k:load(a.scales, { n0, g }, 16, 1):f32():transpose():cast(p.scale))
    if not p.zeros then return end
    local word, last = n0 // per, ceil_div(p.n, per) - 1
    local words = spread_words(k, per, function(i) return k:load(a.zero_point, { (word + i):min(last), g }) end)
    k:store(a.zero, { g, n0 }, within_columns(k, p, n0, packed_element(words, k:col(16) % per, bits)):cast("u8"))
  end)
end)
