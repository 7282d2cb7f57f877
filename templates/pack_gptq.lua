-- pack_gptq.lua - a GPTQ layer as it is stored becomes a panel of w8 (8 bits), w4 or w4a16 (4 bits):
--   qweight s32 [k * bits / 32, n]         lowest bits: lowest row
--   qzeros  s32 [groups, ceil(n * bits / 32)]  lowest bits: lowest column; p.add_zero is 1 where "gptq" (v1) stores zero - 1
--   scales  [groups, n]
-- With p.perm, row j of the panel is row perm[j] of the source: the rows of a group side by side (desc_act); the same
-- permutation is due on the activations (quantize.lua). Without p.zeros the format's own zero point holds (symmetric).
-- Source: AutoGPTQ, GPTQModel (nn_modules/qlinear).
local function case(n, k, group, w, more)
  local p = { n = n, k = k, group = group, w = w, from = "f16", scale = "f16" }
  for key, value in pairs(more or {}) do p[key] = value end
  return { p = p, sizes = {} }
end

return operator "pack_gptq" {
  doc = "GPTQ weights to a panel of w8, w4 or w4a16, with scales and zero points",
  args = function(p)
    local bits = packed_bits(p.w)
    local list = { argument("qweight", "s32", { p.k * bits // 32, p.n }) }
    if p.zeros then list[#list + 1] = argument("qzeros", "s32", { weight_groups(p), ceil_div(p.n * bits, 32) }) end
    list[#list + 1] = argument("scales", p.from, { weight_groups(p), p.n })
    if p.perm then list[#list + 1] = argument("perm", "s32", { p.k }) end
    return packed_outputs(list, p)
  end,
  inputs = function(p, t, sizes, random)
    fill_words(random, t.qweight, t.qzeros)
    if p.perm then t.perm:fill(function(i) return (i * 7 + 3) % p.k end) end
  end,
  reference = function(p, t)
    local bits = packed_bits(p.w)
    packed_reference(p, t, function(k, n)
      local row = p.perm and math.tointeger(t.perm:get(k)) or k
      return packed_code(t.qweight:get(row * bits // 32, n), row, bits)
    end, function(g, n) return packed_code(t.qzeros:get(g, n * bits // 32), n, bits) + p.add_zero & 255 end,
    function(g, n) return t.scales:get(g, n) end)
  end,
  tolerance = 0,
  cases = {
    case(64, 64, 32, "w4"), case(80, 96, 96, "w4a16", { scale = "f32" }), case(48, 128, 32, "w4", { zeros = true, add_zero = 1 }),
    case(24, 40, 16, "w4", { zeros = true, add_zero = 0 }), case(32, 64, 32, "w8", { zeros = true, add_zero = 1 }),
    case(20, 36, 48, "w8", { from = "bf16", scale = "bf16" }), case(64, 96, 32, "w4", { perm = true }),
    case(40, 72, 32, "w8", { perm = true, zeros = true, add_zero = 0, pitch = 96 }),
  },
}
