-- limit_peak.lua - the same small product over and over, from the first cache: how many operations a second the
-- instruction of format w's matmuls reaches (compiler/lua/weights.lua). `blade bench` compares kernels with it.
return operator "limit_peak" {
  doc = "y = repeats * (x W): the machine's peak of the instruction that multiplies weights of format w",
  args = function(p)
    local f = weight_formats[p.w]
    return {
      argument("x", f.x, { p.m, p.k }), weight_panel("w", p),
      argument("y", f.acc or "f32", { "rows", p.m, p.n }, "out"),
    }
  end,
  numerics = function() return {} end,
  reference = function(p, t)
    t.y:fill(function(_, m, n)
      local sum = 0
      for k = 0, p.k - 1 do sum = sum + t.x:get(m, k) * t.w:get(k, n) end
      return sum * p.repeats
    end)
  end,
  tolerance = 1e-5,
  cases = {
    { p = { m = 12, n = 32, k = 64, w = "w8", repeats = 3 }, sizes = { rows = 2 } },
    { p = { m = 6, n = 16, k = 64, w = "bf16", repeats = 3 }, sizes = { rows = 1 } },
    { p = { m = 3, n = 16, k = 64, w = "f32", repeats = 2 }, sizes = { rows = 1 } },
  },
}
