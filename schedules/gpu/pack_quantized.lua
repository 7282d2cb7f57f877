-- pack_quantized.lua - a block takes one group of 16 columns, read once: its range, then its codes, which their neighbours
-- join in words.
local function power_of_two(n) return power_of_two_up(n) == n end

-- Where the elements of a word go, by their number: panel_shift as a tile.
local function shifts(k, f)
  local i = k:col(f.unit)
  if f.elem ~= "u4" then return i * (32 // f.unit) end
  return f.pairs and ((i >> 1) + (i & 1) * 4) * 4 or ((i & 3) * 2 + (i >> 2)) * 4
end

return schedule "pack_quantized" {
  fits = function(p)
    local unit = panel_unit(p)
    return unit >= 32 and power_of_two(p.group) and p.group <= 256 and p.group % unit == 0
  end,
} (function(k, a, p)
  local f, unit, n = weight_formats[p.w], panel_unit(p), p.group
  k:warps(math.max(1, n // target.gpu.wave), 1)
  k:tiles(ceil_div(p.n, 16), weight_groups(p))
  local block, g = k:block(0), k:block(1)

  local w = k:load(a.source, { block * 16, g * n }, 16, n):f32()
  local low, high = w:reduce("min"):min(0), w:highest():max(0)
  local range = p.w == "w8" and high:max(-low) / 127 or k:select((-low):gt(high), low, high) / -8
  local stored = range:cast(p.scale)
  k:store(a.scale, { g, block * 16 }, stored:reshape(1, 16))
  local scale = stored:f32()
  local q = (w * k:select(scale:abs():gt(1e-30), 1.0 / scale, 0.0)):rint() + f.zero
  q = q:max(0):min(2 * f.zero - 1):cast("s32"):reshape(16 * n // f.unit, f.unit)
  local words = (q << shifts(k, f)):reduce("add"):reshape(16, n // f.unit)

  local per, lines = n // f.unit, round_up(p.k, 16) // f.unit
  if lines % per > 0 then words = k:select((k:col(per) + (g * per):cast("s32")):lt(lines), words, 0) end

  local runs, each = ceil_div(round_up(p.k, 16), unit), unit // f.unit
  for r = 0, n // unit - 1 do
    local run = g * (n // unit) + r
    local function put() k:store(a.w, { block, run, 0, 0 }, words:slice(0, 16, r * each, each)) end
    if weight_groups(p) * (n // unit) > runs then k:when(run:lt(runs), put) else put() end
  end
end)
