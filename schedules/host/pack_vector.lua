-- pack_vector.lua - one block; vectors are short.
return schedule "pack_vector" {} (function(k, a, p)
  k:tiles(1)
  k:range(0, round_up(p.n, 16), 16, function(i) k:store(a.y, { i }, k:load(a.source, { i }, 1, 16):f32()) end)
end)
