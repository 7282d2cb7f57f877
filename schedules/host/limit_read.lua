-- limit_read.lua - a block reads its piece front to back, 512 bytes at a time.
return schedule "limit_read" {} (function(k, a, p, s)
  k:tiles("rows")
  local row = k:block(0)
  local sum = k:frag("f32", 1, 128):set(0)
  k:range(0, p.n, 128, function(i) sum:set(sum + k:load(a.x, { row, i }, 1, 128)) end)
  k:store(a.y, { row, 0 }, sum)
end)
