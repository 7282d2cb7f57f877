-- matmul.lua - y[t,:] = x[t,:] W, W stored packed in one of the formats of compiler/lua/weights.lua, and what is fused
-- to it:
--   act = "silu_mul"   two weight matrices: y = silu(x W) * (x W2)   (gate and up projection)
--   bias               y += bias, before anything else
--   residual           y is added to what y holds
-- Quantized weights: W[k,n] = (q[k,n] - z[k/group,n]) * scale[k/group,n]; without zeros, z is 8 or 128.
-- s8 activations: x[t,k] = q * x_scale[t, k/group], x_sum = sum of q over a group; bf16 activations of w4a16 bring
-- x_sum of the rounded values. over: "tokens", or "outputs" for the logits.
-- cut: sums are made of pieces of so many elements of K (whole groups of scales, of 256 elements at most), added in order: where K must be shared
-- out to fill a GPU. With `part` the pieces themselves are the result, y [pieces, rows, n] (and y2 for the second
-- matrices), without bias, residual or act; matmul_merge adds them up.
function matmul_parts(name, p, access)
  local n = round_up(p.n, 16)
  return argument(name, "f32", { matmul_pieces(p), p.over or "tokens", n }, access, { pitch = row_pitch(n, "f32") })
end
function matmul_pieces(p) return ceil_div(p.k, matmul_cut(p)) end
function matmul_cut(p) return p.group and p.group < p.cut and p.cut // p.group * p.group or p.cut end

local function sides(p) return p.act == "silu_mul" and { "", "2" } or { "" } end

local function weight(p, t, side, k, n)
  local f = weight_formats[p.w]
  local q = t["w" .. side]:get(k, n)
  if not f.zero then return q end
  local g = k // p.group
  local z = p.zeros and t["zero" .. side]:get(g, n) or f.zero
  return (q - z) * t["scale" .. side]:get(g, n)
end

-- Only GPUs need cuts, and only their schedule knows them.
local cut_cases = target.gpu and {
  { p = { n = 48, k = 640, w = "bf16", cut = 256 }, sizes = { tokens = 5 } },
  { p = { n = 48, k = 640, w = "bf16", cut = 256, part = true }, sizes = { tokens = 5 } },
  { p = { n = 32, k = 768, w = "w8", group = 128, cut = 256, act = "silu_mul" }, sizes = { tokens = 3 } },
  { p = { n = 32, k = 768, w = "w8", group = 128, cut = 256, act = "silu_mul", part = true }, sizes = { tokens = 3 } },
  { p = { n = 48, k = 576, w = "w4", group = 96, cut = 256, zeros = true, residual = true }, sizes = { tokens = 18 } },
  { p = { n = 48, k = 576, w = "w4", group = 96, cut = 256, zeros = true, part = true }, sizes = { tokens = 18 } },
} or {}

return operator "matmul" {
  doc = "y = x W for weights in f32, f16, bf16, w8, w4 or w4a16, with bias, residual and SiLU*mul epilogues",
  args = function(p)
    local f, rows = weight_formats[p.w], p.over or "tokens"
    local list = { activation("x", rows, p.k, f.x) }
    if f.x == "s8" then list[#list + 1] = argument("x_scale", "f32", { rows, weight_groups(p) }) end
    if f.acc then list[#list + 1] = argument("x_sum", f.x == "s8" and "s32" or "f32", { rows, weight_groups(p) }) end
    for _, side in ipairs(sides(p)) do
      list[#list + 1] = weight_panel("w" .. side, p)
      if f.acc then list[#list + 1] = weight_scale("scale" .. side, p, p.scale or "f32") end
      if p.zeros then list[#list + 1] = weight_scale("zero" .. side, p, "u8") end
      if p.bias and not p.part then list[#list + 1] = argument("bias" .. side, "f32", { round_up(p.n, 16) }) end
    end
    for _, side in ipairs(p.part and sides(p) or {}) do list[#list + 1] = matmul_parts("y" .. side, p, "out") end
    if p.part then return list end
    list[#list + 1] = activation("y", rows, p.n, "f32", p.residual and "inout" or "out")
    return list
  end,
  numerics = function(p) return { segment = p.cut } end,
  inputs = function(p, t, sizes, random)
    local f, rows = weight_formats[p.w], sizes[p.over or "tokens"]
    local k, n = round_up(p.k, 16), round_up(p.n, 16)
    for row = 0, rows - 1 do
      for i = p.k, k - 1 do t.x:set(0, row, i) end
      for g = 0, f.acc and weight_groups(p) - 1 or -1 do
        local sum = 0
        for i = g * p.group, math.min((g + 1) * p.group, p.k) - 1 do sum = sum + t.x:get(row, i) end
        t.x_sum:set(sum, row, g)
        if f.x == "s8" then t.x_scale:set(random.uniform(0.001, 0.01), row, g) end
      end
    end
  end,
  reference = function(p, t, sizes)
    local f, rows = weight_formats[p.w], sizes[p.over or "tokens"]
    local function dot(side, row, n, first, last)
      local sum = 0
      for k = first or 0, last or p.k - 1 do
        local x = t.x:get(row, k)
        if f.x == "s8" then x = x * t.x_scale:get(row, k // p.group) end
        sum = sum + x * weight(p, t, side, k, n)
      end
      return sum + (p.bias and not p.part and t["bias" .. side]:get(n) or 0)
    end
    for _, side in ipairs(p.part and sides(p) or {}) do
      local cut = matmul_cut(p)
      t["y" .. side]:fill(function(i, row, n) return dot(side, row, n, i * cut, math.min((i + 1) * cut, p.k) - 1) end)
    end
    if p.part then return end
    t.y:fill(function(row, n)
      local y = dot("", row, n)
      if p.act == "silu_mul" then y = y / (1 + math.exp(-y)) * dot("2", row, n) end
      return p.residual and y + t.y:get(row, n) or y
    end)
  end,
  tolerance = function(p) return weight_formats[p.w].x == "bf16" and 2e-5 or 5e-6 end,
  tune = {
    -- few rows while decoding; in calls of any size also as many as a step of prefill has
    workloads = function(p, bucket)
      local size, list = p.over or "tokens", {}
      local some = { [0] = p.over and { 1, 64 } or { 96, 512 }, [4] = { 2, 4 }, [8] = { 6, 8 }, [32] = { 16, 32 } }
      for i, rows in ipairs(some[bucket] or { bucket }) do
        list[i] = { name = rows .. " rows", sizes = { [size] = rows } }
      end
      return list
    end,
    peak = function(p) return ({ s8 = "int8", bf16 = "bf16", f32 = "f32" })[weight_formats[p.w].x] end,
    operations = function(p, sizes) return 2 * p.n * p.k * #sides(p) * sizes[p.over or "tokens"] end,
    -- the same tiles of columns, the same kinds of groups of K, few of both
    reduced = function(p)
      local small, columns = {}, round_up(p.n, 16)
      for key, value in pairs(p) do small[key] = value end
      small.n = math.min(p.n, 2 * 16 * power_of_two_divisor(columns // 16, 8) - (columns - p.n))
      local group = p.group and p.group < p.k and p.group or nil
      small.k = math.min(p.k, group and 2 * group + p.k % group or 256 + p.k % 128)
      if p.group and not group then small.group = small.k end
      small.pitch = nil
      return { p = small, sizes = { [p.over or "tokens"] = 13 } }
    end,
  },
  cases = concat_lists({
    { p = { n = 64, k = 64, w = "f32" }, sizes = { tokens = 5 } },
    { p = { n = 64, k = 176, w = "f32", act = "silu_mul" }, sizes = { tokens = 17 } },
    { p = { n = 48, k = 64, w = "f16", bias = true }, sizes = { tokens = 3 } },
    { p = { n = 64, k = 128, w = "bf16", residual = true }, sizes = { tokens = 14 } },
    { p = { n = 160, k = 64, w = "bf16", over = "outputs" }, sizes = { outputs = 1 } },
    { p = { n = 64, k = 160, w = "w8", group = 160 }, sizes = { tokens = 13 } },
    { p = { n = 48, k = 352, w = "w8", group = 352 }, sizes = { tokens = 18 } },
    { p = { n = 64, k = 256, w = "w8", group = 128, zeros = true }, sizes = { tokens = 4 } },
    { p = { n = 64, k = 256, w = "w4", group = 128, act = "silu_mul" }, sizes = { tokens = 27 } },
    { p = { n = 64, k = 160, w = "w4", group = 64, zeros = true, bias = true, scale = "f16" }, sizes = { tokens = 6 } },
    { p = { n = 32, k = 96, w = "w4", group = 96, residual = true, scale = "bf16" }, sizes = { tokens = 2 } },
    { p = { n = 64, k = 256, w = "w4a16", group = 128 }, sizes = { tokens = 9 } },
    { p = { n = 64, k = 160, w = "w4a16", group = 32, zeros = true, scale = "f16" }, sizes = { tokens = 7 } },
  }, cut_cases),
}
