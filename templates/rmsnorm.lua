-- rmsnorm.lua - y[t,:] = x[t,:] / sqrt(mean(x[t,:]^2) + eps) * w, with what is fused to it: residual, gather, out (see
-- compiler/lua/norm.lua).
-- Source: Zhang & Sennrich 2019, https://arxiv.org/abs/1910.07467
return operator "rmsnorm" {
  doc = "y = x / rms(x) * w, optionally with residual add, row gather and quantized output",
  args = norm_arguments,
  numerics = row_tree,
  inputs = norm_inputs,
  reference = function(p, t, sizes)
    norm_reference(p, t, sizes, function(x)
      local sum = 0
      for i = 0, p.n - 1 do sum = sum + x(i) ^ 2 end
      local scale = 1 / math.sqrt(sum / p.n + p.eps)
      return function(i) return x(i) * scale * t.w:get(i) end
    end)
  end,
  tolerance = activation_tolerance,
  cases = {
    { p = { n = 64, eps = 1e-5, out = "f32" }, sizes = { tokens = 3 } },
    { p = { n = 172, eps = 1e-6, out = "f32", residual = true }, sizes = { tokens = 2 } },
    { p = { n = 64, eps = 1e-5, out = "f32", gather = "outputs" }, sizes = { tokens = 5, outputs = 2 } },
    { p = { n = 100, eps = 1e-5, out = "f32", gather = "hiddens" }, sizes = { tokens = 4, hiddens = 3 } },
    { p = { n = 160, eps = 1e-5, out = "bf16" }, sizes = { tokens = 2 } },
    { p = { n = 256, eps = 1e-5, out = "s8", group = 128 }, sizes = { tokens = 2 } },
    { p = { n = 172, eps = 1e-5, out = "s8", group = 32 }, sizes = { tokens = 2 } },
    { p = { n = 304, eps = 1e-5, out = "s8", group = 304 }, sizes = { tokens = 1 } },
    { p = { n = 256, eps = 1e-5, out = "bf16", group = 64 }, sizes = { tokens = 2 } },
    { p = { n = 2600, eps = 1e-5, out = "s8", group = 128, residual = true }, sizes = { tokens = 2 } },
    { p = { n = 1100, eps = 1e-5, out = "bf16", group = 1100 }, sizes = { tokens = 2 } },
  },
}
