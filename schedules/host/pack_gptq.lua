-- pack_gptq.lua - lanes are columns, as in the source; a block takes up to 64 of them, so that reads use whole cache
-- lines.
return schedule "pack_gptq" {} (function(k, a, p)
  local f, bits = weight_formats[p.w], packed_bits(p.w)
  local per, blocks = 32 // bits, divisor(ceil_div(p.n, 16), 4)
  k:tiles(ceil_div(p.n, 16) // blocks)
  local first = k:block(0) * blocks

  local function straight(n0, at) -- 16 rows: whole words keep their rows, the elements change places
    k:range(0, round_up(p.k, 16) // per, 16 // per, function(line)
      local words = k:load(a.qweight, { line, n0 }, 16 // per, 16)
      store_lines(k, p, a.w, at, line, panel_words(f, function(i) return packed_element(words, i, bits) end),
                  round_up(p.k, 16) // per)
    end)
  end

  local function permuted(n0, at)
    k:range(0, round_up(p.k, 16) // per, 1, function(line)
      local words = panel_words(f, function(i)
        return within_rows(k, p, line * per + i, function(j)
          local row = k:load(a.perm, { j })
          return packed_element(k:load(a.qweight, { row // per, n0 }, 1, 16), row % per, bits)
        end)
      end)
      store_line(k, p, a.w, at, line, words)
    end)
  end

  for b = 0, blocks - 1 do
    local at, n0 = first + b, (first + b) * 16;
    (p.perm and permuted or straight)(n0, at)
    k:range(0, weight_groups(p), 1, function(g)
      k:store(a.scale, { g, n0 }, k:load(a.scales, { g, n0 }, 1, 16):f32():cast(p.scale))
      if not p.zeros then return end
      local word, last = n0 // per, ceil_div(p.n, per) - 1
      local words = spread_words(k, per, function(i) return k:load(a.qzeros, { g, (word + i):min(last) }) end)
      local zero = packed_element(words, k:col(16) % per, bits) + p.add_zero
      k:store(a.zero, { g, n0 }, within_columns(k, p, n0, zero):cast("u8"))
    end)
  end
end)
