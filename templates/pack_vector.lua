-- pack_vector.lua - a vector of a checkpoint (norm weights, biases) in f32, padded with zeros to whole vector
-- registers.
return operator "pack_vector" {
  doc = "a vector of f32, f16 or bf16 as f32, padded with zeros to a multiple of 16",
  args = function(p) return { argument("source", p.from, { p.n }), argument("y", "f32", { round_up(p.n, 16) }, "out") } end,
  reference = function(p, t) t.y:fill(function(i) return i < p.n and t.source:get(i) or 0 end) end,
  tolerance = 0,
  cases = {
    { p = { n = 64, from = "f32" }, sizes = {} }, { p = { n = 37, from = "bf16" }, sizes = {} }, { p = { n = 5, from = "f16" }, sizes = {} },
  },
}
