-- embedding.lua - one token a block.
return schedule "embedding" {} (function(k, a, p)
  k:tiles("tokens")
  local row = k:block(0)
  local id = k:load(a.tokens, { row })
  k:range(0, round_up(p.n, 16), 16, function(j) k:store(a.y, { row, j }, k:load(a.table, { id, j }, 1, 16):f32()) end)
end)
