-- matmul_merge.lua - a block adds up C columns of a row, piece by piece.
return schedule "matmul_merge" {} (function(k, a, p)
  local C = target.gpu and 128 or 16
  k:tiles({ n = ceil_div(round_up(p.n, 16), C) }, p.over or "tokens")
  local n0, row = k:block(0) * C, k:block(1)
  local function total(side)
    local sum = k:load(a["x" .. side], { 0, row, n0 }, 1, C)
    for i = 1, matmul_pieces(p) - 1 do sum = sum + k:load(a["x" .. side], { i, row, n0 }, 1, C) end
    return p.bias and sum + k:load(a["bias" .. side], { n0 }, 1, C) or sum
  end
  local y = total("")
  if p.act == "silu_mul" then y = y:silu() * total("2") end
  if p.residual then y = y + k:load(a.y, { row, n0 }, 1, C) end
  k:store(a.y, { row, n0 }, y)
end)
