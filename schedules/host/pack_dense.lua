-- pack_dense.lua - one column block a block: squares of 16 x 16 are transposed in registers and leave as whole lines.
return schedule "pack_dense" {} (function(k, a, p)
  local f = weight_formats[p.w]
  k:tiles(ceil_div(p.n, 16))
  local block = k:block(0)
  k:range(0, round_up(p.k, 16), 16, function(k0)
    local rows = float_code(p.w, k:load(a.source, { block * 16, k0 }, 16, 16)):transpose()
    for line = 0, 16 // f.unit - 1 do
      local words = panel_words(f, function(i) return rows:slice(line * f.unit + i, 1, 0, 16) end)
      store_line(k, p, a.w, block, k0 // f.unit + line, words)
    end
  end)
end)
