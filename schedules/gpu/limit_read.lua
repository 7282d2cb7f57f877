-- limit_read.lua - a block of 8 warps reads its piece front to back, four loads of 16 bytes a thread under way.
return schedule "limit_read" {} (function(k, a, p, s)
  local n = power_of_two_divisor(p.n, 128 * target.gpu.wave)
  k:warps(1, wide_warps(n, 8))
  k:tiles("rows")
  local row, sum = k:block(0), k:frag("f32", 1, n):set(0)
  k:range(0, p.n, n, function(i) sum:set(sum + k:load(a.x, { row, i }, 1, n)) end)
  k:store(a.y, { row, 0 }, sum:reshape(n // 128, 128):reduce("add", "rows"))
end)
