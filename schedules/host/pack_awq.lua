-- pack_awq.lua - lanes are columns: two words of the source spread over 16 lanes, each shifted to its nibble. A block
-- takes up to 128 columns, so that reads use whole cache lines.
return schedule "pack_awq" {} (function(k, a, p)
  local f, blocks = weight_formats[p.w], divisor(ceil_div(p.n, 16), 8)
  k:tiles(ceil_div(p.n, 16) // blocks)
  local first = k:block(0) * blocks
  local nibble = k:col(16) % 2 * 4 + k:col(16) % 8 // 2

  local function codes(memory, row, n0)
    local word, last = n0 // 8, p.n // 8 - 1
    local words = spread_words(k, 8, function(i) return k:load(memory, { row, (word + i):min(last) }) end)
    return within_columns(k, p, n0, packed_element(words, nibble, 4))
  end

  k:range(0, round_up(p.k, 16) // 8, 1, function(line)
    for b = 0, blocks - 1 do
      local words = panel_words(f, function(i)
        return within_rows(k, p, line * 8 + i, function(row) return codes(a.qweight, row, (first + b) * 16) end)
      end)
      store_line(k, p, a.w, first + b, line, words)
    end
  end)
  k:range(0, weight_groups(p), 1, function(g)
    for b = 0, blocks - 1 do
      local n0 = (first + b) * 16
      k:store(a.scale, { g, n0 }, k:load(a.scales, { g, n0 }, 1, 16):f32():cast(p.scale))
      k:store(a.zero, { g, n0 }, codes(a.qzeros, g, n0):cast("u8"))
    end
  end)
end)
