-- unpack.lua - a quantized panel becomes a dense one: w = (q - zero) * scale, exact in f32, rounded to nearest even
-- where the format is narrower. p.from is the format of the panel q, p.w that of the result. With p.perm, row k of the
-- result is row perm[k] of the panel (the inverse of the permutation it was packed with). The padding of k and n is
-- zero.
local function case(n, k, group, from, w, more)
  local p = { n = n, k = k, group = group, from = from, w = w, scale = "f16" }
  for key, value in pairs(more or {}) do p[key] = value end
  return { p = p, sizes = {} }
end

local function quantized(p) return { n = p.n, k = p.k, w = p.from, group = p.group } end

return operator "unpack" {
  doc = "a panel of w8 or w4 to one of f32, f16 or bf16",
  args = function(p)
    local list = { panel_lines("q", quantized(p)), weight_scale("scale", p, p.scale) }
    if p.zeros then list[#list + 1] = weight_scale("zero", p, "u8") end
    if p.perm then list[#list + 1] = argument("perm", "s32", { p.k }) end
    list[#list + 1] = panel_lines("w", p, "out")
    return list
  end,
  inputs = function(p, t, sizes, random)
    fill_words(random, t.q)
    if p.perm then t.perm:fill(function(i) return (i * 7 + 3) % p.k end) end
    for n = p.n, round_up(p.n, 16) - 1 do
      for g = 0, weight_groups(p) - 1 do t.scale:set(0, g, n) end
    end
  end,
  reference = function(p, t)
    local q = panel_of(t.q, quantized(p))
    assign_panel(t.w, p, function(k, n)
      if k >= p.k then return 0 end
      local row = p.perm and math.tointeger(t.perm:get(k)) or k
      local zero = p.zeros and t.zero:get(row // p.group, n) or weight_formats[p.from].zero
      return (q:get(row, n) - zero) * t.scale:get(row // p.group, n)
    end)
  end,
  tolerance = 0,
  cases = {
    case(32, 64, 32, "w4", "f32"), case(48, 96, 96, "w8", "bf16", { scale = "bf16" }), case(40, 72, 32, "w4", "f16", { zeros = true }),
    case(21, 45, 48, "w8", "f32", { scale = "f32", zeros = true }), case(64, 96, 32, "w4", "bf16", { perm = true }),
    case(19, 40, 16, "w4", "f32", { perm = true, zeros = true }),
  },
}
