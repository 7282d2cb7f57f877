-- pack_awq.lua - an AWQ layer (version "gemm", 4 bits) as it is stored becomes a panel of w4 or w4a16:
--   qweight s32 [k, n / 8]        nibble i of a word is column 8 * word + {0, 2, 4, 6, 1, 3, 5, 7}[i]
--   qzeros  s32 [groups, n / 8]   the same order
--   scales  [groups, n]
-- Source: AutoAWQ (modules/linear/gemm.py, utils/packing_utils.py).
local function case(n, k, group, w, more)
  local p = { n = n, k = k, group = group, w = w, from = "f16", scale = "f16", zeros = true }
  for key, value in pairs(more or {}) do p[key] = value end
  return { p = p, sizes = {} }
end

-- Nibble that holds column n.
local function place(n) return n % 2 * 4 + n % 8 // 2 end

return operator "pack_awq" {
  doc = "AWQ weights to a panel of w4 or w4a16, with scales and zero points",
  args = function(p)
    return packed_outputs({ argument("qweight", "s32", { p.k, p.n // 8 }), argument("qzeros", "s32", { weight_groups(p), p.n // 8 }),
      argument("scales", p.from, { weight_groups(p), p.n }) }, p)
  end,
  inputs = function(p, t, sizes, random) fill_words(random, t.qweight, t.qzeros) end,
  reference = function(p, t)
    packed_reference(p, t, function(k, n) return packed_code(t.qweight:get(k, n // 8), place(n), 4) end,
      function(g, n) return packed_code(t.qzeros:get(g, n // 8), place(n), 4) end, function(g, n) return t.scales:get(g, n) end)
  end,
  tolerance = 0,
  cases = {
    case(128, 64, 32, "w4"), case(48, 128, 64, "w4a16", { scale = "f32", pitch = 64 }), case(40, 72, 32, "w4"),
    case(24, 33, 48, "w4", { from = "bf16", scale = "bf16" }),
  },
}
