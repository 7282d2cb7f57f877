-- limit_copy.lua - a block of 8 warps copies its row, four loads of 16 bytes a thread under way.
return schedule "limit_copy" {} (function(k, a, p, s)
  local n = power_of_two_divisor(p.n, 128 * target.gpu.wave)
  k:warps(1, wide_warps(n, 8))
  k:tiles("rows")
  local row = k:block(0)
  k:range(0, p.n, n, function(j) k:store(a.y, { row, j }, k:load(a.x, { row, j }, 1, n)) end)
end)
