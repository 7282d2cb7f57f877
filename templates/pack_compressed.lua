-- pack_compressed.lua - a compressed-tensors layer of format "pack-quantized" becomes a panel of w8, w4 or w4a16:
--   packed      s32 [n, ceil(k * bits / 32)]       lowest bits: lowest column; the value is the code minus 2^(bits - 1)
--   zero_point  s32 [ceil(n * bits / 32), groups]  with p.zeros: packed down the rows, biased like the weights
--   scales      [n, groups]
-- With p.perm (actorder "group"), row j of the panel is column perm[j] of the source, as in pack_gptq.lua.
-- Source: compressed-tensors (compressors/pack_quantized).
local function case(n, k, group, w, more)
  local p = { n = n, k = k, group = group, w = w, from = "bf16", scale = "bf16" }
  for key, value in pairs(more or {}) do p[key] = value end
  return { p = p, sizes = {} }
end

return operator "pack_compressed" {
  doc = "compressed-tensors pack-quantized weights to a panel of w8, w4 or w4a16, with scales and zero points",
  args = function(p)
    local bits = packed_bits(p.w)
    local list = { argument("packed", "s32", { p.n, ceil_div(p.k * bits, 32) }) }
    if p.zeros then list[#list + 1] = argument("zero_point", "s32", { ceil_div(p.n * bits, 32), weight_groups(p) }) end
    list[#list + 1] = argument("scales", p.from, { p.n, weight_groups(p) })
    if p.perm then list[#list + 1] = argument("perm", "s32", { p.k }) end
    return packed_outputs(list, p)
  end,
  inputs = function(p, t, sizes, random)
    fill_words(random, t.packed, t.zero_point)
    for n = 0, p.n - 1 do -- what is left of the last word
      local last = ceil_div(p.k * packed_bits(p.w), 32) - 1
      local used = p.k * packed_bits(p.w) - last * 32
      if used < 32 then t.packed:set(math.tointeger(t.packed:get(n, last)) & (1 << used) - 1, n, last) end
    end
    if p.perm then t.perm:fill(function(i) return (i * 7 + 3) % p.k end) end
  end,
  reference = function(p, t)
    local bits = packed_bits(p.w)
    packed_reference(p, t, function(k, n)
      local column = p.perm and math.tointeger(t.perm:get(k)) or k
      return packed_code(t.packed:get(n, column * bits // 32), column, bits)
    end, function(g, n) return packed_code(t.zero_point:get(n * bits // 32, g), n, bits) end,
    function(g, n) return t.scales:get(n, g) end)
  end,
  tolerance = 0,
  cases = {
    case(64, 128, 32, "w4"), case(48, 172, 176, "w4", { from = "f32", scale = "f32" }), case(40, 96, 32, "w4", { zeros = true }),
    case(21, 72, 32, "w4a16", { zeros = true, pitch = 64 }), case(32, 64, 64, "w8", { from = "f16", scale = "f16" }),
    case(19, 45, 16, "w8", { zeros = true }), case(64, 96, 32, "w4", { perm = true }), case(9, 40, 16, "w8", { perm = true }),
  },
}
