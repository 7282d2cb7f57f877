-- rmsnorm.lua - y[t,:] = x[t,:] / sqrt(mean(x[t,:]^2) + eps) * w, with what is fused to it:
--   residual  x += residual first, and the sum is stored back into x
--   gather    row t of the result is row output_rows[t] of x (the rows whose logits are wanted)
--   out       the type of y; quantized forms add scales and sums, see activation.lua
-- Source: Zhang & Sennrich 2019, https://arxiv.org/abs/1910.07467
return operator "rmsnorm" {
  doc = "y = x / rms(x) * w, optionally with residual add, row gather and quantized output",
  args = function(p)
    local rows = p.gather and "outputs" or "tokens"
    local list = { activation("x", "tokens", p.n, "f32", p.residual and "inout" or "in"), argument("w", "f32", { round_up(p.n, 16) }) }
    if p.residual then list[#list + 1] = activation("residual", "tokens", p.n, "f32") end
    if p.gather then list[#list + 1] = argument("output_rows", "s32", { "outputs" }) end
    for _, d in ipairs(activation_outputs(p, rows)) do list[#list + 1] = d end
    return list
  end,
  numerics = function() return { tree = 16 } end,
  inputs = function(p, t, sizes, random)
    for i = p.n, round_up(p.n, 16) - 1 do
      t.w:set(0, i)
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
      local from, sum = p.gather and math.tointeger(t.output_rows:get(row)) or row, 0
      for i = 0, p.n - 1 do sum = sum + t.x:get(from, i) ^ 2 end
      local scale = 1 / math.sqrt(sum / p.n + p.eps)
      return function(i) return i < p.n and t.x:get(from, i) * scale * t.w:get(i) or 0 end
    end)
  end,
  tolerance = activation_tolerance,
  cases = {
    { p = { n = 64, eps = 1e-5, out = "f32" }, sizes = { tokens = 3 } },
    { p = { n = 172, eps = 1e-6, out = "f32", residual = true }, sizes = { tokens = 2 } },
    { p = { n = 64, eps = 1e-5, out = "f32", gather = true }, sizes = { tokens = 5, outputs = 2 } },
    { p = { n = 160, eps = 1e-5, out = "bf16" }, sizes = { tokens = 2 } },
    { p = { n = 256, eps = 1e-5, out = "s8", group = 128 }, sizes = { tokens = 2 } },
    { p = { n = 172, eps = 1e-5, out = "s8", group = 32 }, sizes = { tokens = 2 } },
    { p = { n = 304, eps = 1e-5, out = "s8", group = 304 }, sizes = { tokens = 1 } },
    { p = { n = 256, eps = 1e-5, out = "bf16", group = 64 }, sizes = { tokens = 2 } },
  },
}
