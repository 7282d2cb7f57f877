-- quantize.lua - one row a block.
return schedule "quantize" {} (function(k, a, p)
  k:tiles(p.rows or "tokens")
  local row = k:block(0)
  emit_activation(k, a, p, row, function(j)
    if not p.perm then return k:load(a.x, { row, j }, 1, 16) end
    local x = k:gather(a.x, { row, 0 }, k:load(a.perm, { j }, 1, 16))
    if p.n % 16 == 0 then return x end
    local column = k:col(16) + (math.type(j) and j or j:cast("s32"))
    return k:select(column:lt(p.n), x, 0.0)
  end)
end)
