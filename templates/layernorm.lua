-- layernorm.lua - y[t,:] = (x[t,:] - mean) / sqrt(var + eps) * w + b, mean and (biased) variance over the row, in two
-- passes; with what is fused to it:
--   bias      the addend b; without it b = 0
--   residual  x += residual first, and the sum is stored back into x
--   gather    row t of the result is row output_rows[t] of x (the rows whose logits are wanted)
--   out       the type of y; quantized forms add scales and sums, see activation.lua
-- Source: Ba, Kiros & Hinton 2016, https://arxiv.org/abs/1607.06450
return operator "layernorm" {
  doc = "y = (x - mean) / sqrt(var + eps) * w + b, optionally with residual add, row gather and quantized output",
  args = function(p)
    local rows, width = p.gather and "outputs" or "tokens", { round_up(p.n, 16) }
    local list = { activation("x", "tokens", p.n, "f32", p.residual and "inout" or "in"), argument("w", "f32", width) }
    if p.bias then list[#list + 1] = argument("b", "f32", width) end
    if p.residual then list[#list + 1] = activation("residual", "tokens", p.n, "f32") end
    if p.gather then list[#list + 1] = argument("output_rows", "s32", { "outputs" }) end
    for _, d in ipairs(activation_outputs(p, rows)) do list[#list + 1] = d end
    return list
  end,
  numerics = function() return { tree = 16 } end,
  inputs = function(p, t, sizes, random)
    t.x:fill(function() return random.normal() + 3 end) -- a mean that a sum of squares could not take back
    for i = p.n, round_up(p.n, 16) - 1 do
      t.w:set(0, i)
      if p.bias then t.b:set(0, i) end
      for row = 0, sizes.tokens - 1 do
        t.x:set(0, row, i)
        if p.residual then t.residual:set(0, row, i) end
      end
    end
    if p.gather then t.output_rows:fill(function() return random.integer(0, sizes.tokens - 1) end) end
  end,
  reference = function(p, t, sizes)
    if p.residual then
      t.x:fill(function(row, i) return t.x:get(row, i) + t.residual:get(row, i) end)
    end
    activation_reference(p, t, p.gather and sizes.outputs or sizes.tokens, function(row)
      local from, sum, square = p.gather and math.tointeger(t.output_rows:get(row)) or row, 0, 0
      for i = 0, p.n - 1 do sum = sum + t.x:get(from, i) end
      local mean = sum / p.n
      for i = 0, p.n - 1 do square = square + (t.x:get(from, i) - mean) ^ 2 end
      local scale = 1 / math.sqrt(square / p.n + p.eps)
      return function(i)
        return i < p.n and (t.x:get(from, i) - mean) * scale * t.w:get(i) + (p.bias and t.b:get(i) or 0) or 0
      end
    end)
  end,
  tolerance = activation_tolerance,
  cases = {
    { p = { n = 64, eps = 1e-5, out = "f32" }, sizes = { tokens = 3 } },
    { p = { n = 172, eps = 1e-6, out = "f32", bias = true, residual = true }, sizes = { tokens = 2 } },
    { p = { n = 37, eps = 1e-5, out = "f32", bias = true }, sizes = { tokens = 2 } },
    { p = { n = 9, eps = 1e-5, out = "f32" }, sizes = { tokens = 2 } },
    { p = { n = 160, eps = 1e-5, out = "bf16", gather = true }, sizes = { tokens = 5, outputs = 2 } },
    { p = { n = 256, eps = 1e-5, out = "s8", group = 128, bias = true }, sizes = { tokens = 2 } },
    { p = { n = 172, eps = 1e-5, out = "s8", group = 32, bias = true }, sizes = { tokens = 2 } },
    { p = { n = 256, eps = 1e-5, out = "bf16", group = 64, residual = true }, sizes = { tokens = 2 } },
  },
}
