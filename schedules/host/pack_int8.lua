-- pack_int8.lua - one column block a block: squares of 16 x 16 are transposed in registers, four rows of K to a line.
return schedule "pack_int8" {} (function(k, a, p)
  local f = weight_formats.w8
  k:tiles(ceil_div(p.n, 16))
  local block = k:block(0)
  k:range(0, round_up(p.k, 16), 16, function(k0)
    local rows = (k:load(a.source, { block * 16, k0 }, 16, 16):cast("s32") + 128):transpose()
    for line = 0, 3 do
      local words = panel_words(f, function(i) return rows:slice(line * 4 + i, 1, 0, 16) end)
      store_line(k, p, a.w, block, k0 // 4 + line, words)
    end
  end)
  k:range(0, weight_groups(p), 1, function(g)
    local scale = k:load(a.scales, { block * 16, g }, 16, 1):f32()
    k:store(a.scale, { g, block * 16 }, scale:transpose():cast(p.scale))
  end)
end)
