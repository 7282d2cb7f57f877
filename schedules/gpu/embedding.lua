-- embedding.lua - one token a block; all loads of a row are under way at once.
return schedule "embedding" {
  settings = wide_settings(), default = wide_default, sensible = wide_sensible,
} (function(k, a, p, s)
  local w = k:wide_rows(p, s, "tokens", true)
  local id = k:load(a.tokens, { w.row })
  local x = wide_map(w, function(_, j) return k:load(a.table, { id, j }, 1, w.n) end)
  wide_map(w, function(i, j) k:store(a.y, { w.row, j }, x[i]:f32()) end)
end)
