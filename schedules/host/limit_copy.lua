-- limit_copy.lua - a block copies its row front to back.
return schedule "limit_copy" {} (function(k, a, p, s)
  k:tiles("rows")
  local row = k:block(0)
  k:range(0, p.n, 64, function(j) k:store(a.y, { row, j }, k:load(a.x, { row, j }, 1, 64)) end)
end)
