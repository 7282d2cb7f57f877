-- pack_dense.lua - weights as linear layers store them, [n, k] row by row in f32, f16 or bf16, become the panel of a
-- dense format (weights.lua), rounded to nearest even where the format is narrower. The padding of n and k is zero.
local function case(n, k, from, w) return { p = { n = n, k = k, from = from, w = w }, sizes = {} } end

return operator "pack_dense" {
  doc = "dense weights [n, k] to a panel in f32, f16 or bf16",
  args = function(p) return { argument("source", p.from, { p.n, p.k }), panel_lines("w", p, "out") } end,
  reference = function(p, t)
    assign_panel(t.w, p, function(k, n) return k < p.k and n < p.n and t.source:get(n, k) or 0 end)
  end,
  tolerance = 0,
  cases = {
    case(64, 64, "f32", "f32"), case(48, 160, "bf16", "bf16"), case(32, 96, "f16", "f16"), case(19, 37, "f32", "bf16"),
    case(21, 45, "f16", "bf16"), case(7, 108, "bf16", "f16"), case(263, 40, "bf16", "f32"), case(17, 3, "f16", "f32"),
    case(5, 33, "f32", "f16"),
  },
}
