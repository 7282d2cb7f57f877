-- layernorm.lua - y[t,:] = (x[t,:] - mean) / sqrt(var + eps) * w + b, mean and (biased) variance over the row, in two
-- passes; with what is fused to it: bias, residual, gather, out (see compiler/lua/norm.lua).
-- Source: Ba, Kiros & Hinton 2016, https://arxiv.org/abs/1607.06450
return operator "layernorm" {
  doc = "y = (x - mean) / sqrt(var + eps) * w + b, optionally with residual add, row gather and quantized output",
  args = norm_arguments,
  numerics = row_tree,
  inputs = function(p, t, sizes, random)
    t.x:fill(function() return random.normal() + 3 end) -- a mean that a sum of squares could not take back
    norm_inputs(p, t, sizes, random)
  end,
  reference = function(p, t, sizes)
    norm_reference(p, t, sizes, function(x)
      local sum, square = 0, 0
      for i = 0, p.n - 1 do sum = sum + x(i) end
      local mean = sum / p.n
      for i = 0, p.n - 1 do square = square + (x(i) - mean) ^ 2 end
      local scale = 1 / math.sqrt(square / p.n + p.eps)
      return function(i) return (x(i) - mean) * scale * t.w:get(i) + (p.bias and t.b:get(i) or 0) end
    end)
  end,
  tolerance = activation_tolerance,
  cases = {
    { p = { n = 64, eps = 1e-5, out = "f32" }, sizes = { tokens = 3 } },
    { p = { n = 172, eps = 1e-6, out = "f32", bias = true, residual = true }, sizes = { tokens = 2 } },
    { p = { n = 37, eps = 1e-5, out = "f32", bias = true }, sizes = { tokens = 2 } },
    { p = { n = 9, eps = 1e-5, out = "f32" }, sizes = { tokens = 2 } },
    { p = { n = 160, eps = 1e-5, out = "bf16", gather = "outputs" }, sizes = { tokens = 5, outputs = 2 } },
    { p = { n = 256, eps = 1e-5, out = "s8", group = 128, bias = true }, sizes = { tokens = 2 } },
    { p = { n = 172, eps = 1e-5, out = "s8", group = 32, bias = true }, sizes = { tokens = 2 } },
    { p = { n = 256, eps = 1e-5, out = "bf16", group = 64, residual = true }, sizes = { tokens = 2 } },
    { p = { n = 2050, eps = 1e-5, out = "bf16", residual = true, bias = true }, sizes = { tokens = 2 } },
  },
}
