-- pack_int8.lua - a compressed-tensors layer of format "int-quantized" becomes a panel of w8: source s8 [n, k], scales
-- [n, groups], one group for a scale per channel. Stored codes are value + 128. Source: compressed-tensors.
local function case(n, k, group, from, scale, pitch)
  return { p = { n = n, k = k, group = group, w = "w8", from = from, scale = scale, pitch = pitch }, sizes = {} }
end

return operator "pack_int8" {
  doc = "8-bit integer weights [n, k] to a panel of w8, with their scales",
  args = function(p)
    return packed_outputs({ argument("source", "s8", { p.n, p.k }), argument("scales", p.from, { p.n, weight_groups(p) }) }, p)
  end,
  inputs = function(p, t, sizes, random) t.source:fill(function() return random.integer(-128, 127) end) end,
  reference = function(p, t)
    assign_panel(t.w, p, function(k, n) return (k < p.k and n < p.n and t.source:get(n, k) or 0) + 128 end)
    t.scale:fill(function(g, n) return n < p.n and t.scales:get(n, g) or 0 end)
  end,
  tolerance = 0,
  cases = {
    case(64, 128, 128, "bf16", "bf16"), case(48, 96, 96, "f32", "f32", 80), case(19, 45, 48, "f16", "f16"),
    case(33, 64, 32, "bf16", "f32"),
  },
}
