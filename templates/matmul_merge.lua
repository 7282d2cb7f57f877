-- matmul_merge.lua - what a matmul in parts leaves to do: y = act(sum of the pieces + bias) + y, pieces added in order, so
-- that every bit is that of the matmul in one (templates/matmul.lua; act, bias, residual as there).
local function sides(p) return p.act == "silu_mul" and { "", "2" } or { "" } end

return operator "matmul_merge" {
  doc = "adds up the pieces of a matmul in parts, with its bias, activation and residual",
  args = function(p)
    local list = {}
    for _, side in ipairs(sides(p)) do
      list[#list + 1] = matmul_parts("x" .. side, p)
      if p.bias then list[#list + 1] = argument("bias" .. side, "f32", { round_up(p.n, 16) }) end
    end
    list[#list + 1] = activation("y", p.over or "tokens", p.n, "f32", p.residual and "inout" or "out")
    return list
  end,
  numerics = function(p) return { segment = p.cut } end,
  reference = function(p, t)
    local function total(side, row, n)
      local sum = p.bias and t["bias" .. side]:get(n) or 0
      for i = 0, matmul_pieces(p) - 1 do sum = sum + t["x" .. side]:get(i, row, n) end
      return sum
    end
    t.y:fill(function(row, n)
      local y = total("", row, n)
      if p.act == "silu_mul" then y = y / (1 + math.exp(-y)) * total("2", row, n) end
      return p.residual and y + t.y:get(row, n) or y
    end)
  end,
  tolerance = 5e-6,
  cases = {
    { p = { n = 48, k = 640, cut = 256 }, sizes = { tokens = 5 } },
    { p = { n = 300, k = 704, cut = 256, act = "silu_mul", bias = true }, sizes = { tokens = 3 } },
    { p = { n = 1100, k = 576, group = 96, cut = 256, residual = true }, sizes = { tokens = 2 } },
  },
}
