-- quantize.lua - x in a form that a matmul reads (activation.lua); with p.perm, column i of the result is column
-- perm[i] of x (weights packed with that permutation, see pack_gptq.lua). rows: "tokens", or "outputs".
return operator "quantize" {
  doc = "activations to bf16 or s8 with scales and sums, optionally with permuted columns",
  args = function(p)
    local rows = p.rows or "tokens"
    local list = { activation("x", rows, p.n, "f32") }
    if p.perm then list[#list + 1] = argument("perm", "s32", { p.n }) end
    for _, d in ipairs(activation_outputs(p, rows)) do list[#list + 1] = d end
    return list
  end,
  numerics = row_tree,
  inputs = function(p, t, sizes)
    for row = 0, sizes[p.rows or "tokens"] - 1 do
      for i = p.n, round_up(p.n, 16) - 1 do t.x:set(0, row, i) end
    end
    if p.perm then t.perm:fill(function(i) return (i * 7 + 3) % p.n end) end
  end,
  reference = function(p, t, sizes)
    activation_reference(p, t, sizes[p.rows or "tokens"], function(row)
      return function(i)
        if i >= p.n then return 0 end
        return t.x:get(row, p.perm and math.tointeger(t.perm:get(i)) or i)
      end
    end)
  end,
  tolerance = activation_tolerance,
  cases = {
    { p = { n = 64, out = "bf16" }, sizes = { tokens = 3 } },
    { p = { n = 108, out = "f32", perm = true }, sizes = { tokens = 2 } },
    { p = { n = 256, out = "s8", group = 128 }, sizes = { tokens = 3 } },
    { p = { n = 172, out = "s8", group = 176, rows = "outputs" }, sizes = { outputs = 2 } },
    { p = { n = 96, out = "s8", group = 32, perm = true }, sizes = { tokens = 2 } },
    { p = { n = 108, out = "s8", group = 32, perm = true }, sizes = { tokens = 2 } },
    { p = { n = 160, out = "bf16", group = 32, perm = true }, sizes = { tokens = 2 } },
    { p = { n = 9000, out = "s8", group = 128 }, sizes = { tokens = 1 } },
    { p = { n = 17000, out = "s8", group = 17008 }, sizes = { tokens = 1 } },
  },
}
