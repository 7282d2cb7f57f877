-- matmul.lua - a block computes `cols` column blocks of 16 for a chunk of rows; inside, register tiles of R rows, R as large as
-- still fits, so that each line of weights is unpacked once for R rows. K is walked once, upwards, in every tile.
local INSIDE = { inside = true }

-- While a tile of rows computes, it brings `ahead` quarters of the columns that come next into the second cache: the first
-- tiles of a chunk between them fetch all of it, at the pace of the arithmetic. nil: nothing to fetch ahead.
local function upcoming(k, a, p, s, side, m, n0, C, k0)
  local padded = round_up(p.k, 16)
  if s.ahead == 0 or C ~= panel_wide or padded % 128 ~= 0 then return end
  local quarter = m % s.chunk // s.rows * s.ahead
  local wanted = quarter:lt(4) & (n0 + C):lt(round_up(p.n, 16))
  local row = quarter:min(4 - s.ahead) * (padded // 4) + k0 * s.ahead // 4
  return k:view(a["w" .. side], { row, k:select(wanted, n0 + C, n0) }, 1, 16, INSIDE)
end

-- One group of K: integer (or offset bf16) dot products start at -zero * sum(x), then scale into the f32 sum.
local function add_group(k, a, p, s, side, acc, m, R, n0, C, g, length)
  local f = weight_formats[p.w]
  local zero = p.zeros and k:load(a["zero" .. side], { g, n0 }, 1, C):cast(f.acc) + (f.offset or 0)
  local x_sum = k:load(a.x_sum, { m, g }, R, 1, INSIDE)
  local part = k:frag(f.acc, R, C, "acc"):set(x_sum * (zero and -zero or -(f.zero + (f.offset or 0))))
  k:gemm(part, k:view(a.x, { m, g * p.group }, R, length, INSIDE), k:view(a["w" .. side], { g * p.group, n0 }, length, C, INSIDE), s.unroll,
         upcoming(k, a, p, s, side, m, n0, C, g * p.group), s.ahead)
  local sum = part:f32()
  if f.x == "s8" then sum = sum * k:load(a.x_scale, { m, g }, R, 1, INSIDE) end
  acc:set(k:fma(sum, k:load(a["scale" .. side], { g, n0 }, 1, C):f32(), acc))
end

-- x W for R rows from m and C columns from n0.
local function product(k, a, p, s, side, m, R, n0, C)
  local f, padded = weight_formats[p.w], round_up(p.k, 16)
  local acc = k:frag("f32", R, C, "acc"):set(0)
  if not f.acc then
    k:gemm(acc, k:view(a.x, { m, 0 }, R, padded, INSIDE), k:view(a["w" .. side], { 0, n0 }, padded, C, INSIDE), s.unroll,
           upcoming(k, a, p, s, side, m, n0, C, k:const("s64", 0)), s.ahead)
  else
    local whole = p.k // p.group
    k:range(0, whole, 1, function(g) add_group(k, a, p, s, side, acc, m, R, n0, C, g, p.group) end)
    if p.k % p.group > 0 then
      add_group(k, a, p, s, side, acc, m, R, n0, C, k:const("s64", whole), padded - whole * p.group)
    end
  end
  return p.bias and acc + k:load(a["bias" .. side], { n0 }, 1, C) or acc
end

-- Rows of register tiles for a chunk: as many of the widest as fit, the rest in one or two smaller ones.
local function pieces(most)
  local list = { most }
  for _, r in ipairs { 8, 4, 3, 2, 1 } do
    if r < most then list[#list + 1] = r end
  end
  return list
end

-- Column blocks of a tile: the largest power of two up to `most` that divides them all.
local function tile_blocks(blocks, most)
  local d = 1
  while d * 2 <= most and blocks % (d * 2) == 0 do d = d * 2 end
  return d
end

-- Measured on each width of vectors (autotune/results/host-notes.md): tiles of rows x column blocks.
local function best_tile(p)
  if target.vector_bits == 512 or target.vector_registers == 32 and target.vector_bits == 128 then return 4, 4 end
  if target.vector_bits == 128 then return 2, 1 end
  local x = weight_formats[p.w].x
  if x == "s8" then return 3, 2 end
  return x == "bf16" and 4 or 6, 1
end

return schedule "matmul" {
  settings = { rows = { 4, 12, 1 }, cols = { 4, 2, 8 }, chunk = { 96, 8 }, unroll = { 1, 2 }, ahead = { 0, 1, 2 } },
  -- bucket: most rows of a call. One row reads whole panels as one stream; more rows take as many as the registers hold.
  default = function(p, bucket)
    local rows, cols = best_tile(p)
    if bucket == 1 then return { rows = 1, cols = target.vector_bits == 128 and 1 or 4, chunk = 1, unroll = 1, ahead = 0 } end
    return { rows = rows, cols = cols, chunk = 96, unroll = 1, ahead = bucket == 4 and 0 or bucket == 8 and 2 or 1 }
  end,
} (function(k, a, p, s)
  local rows, blocks = p.over or "tokens", ceil_div(p.n, 16)
  local C = tile_blocks(blocks, s.cols) * 16
  k:tiles({ n = blocks * 16 // C }, { size = rows, div = s.chunk })
  local n0, first = k:block(0) * C, k:block(1) * s.chunk
  local count = (k:size(rows) - first):min(s.chunk)
  k:peel(count, pieces(s.rows), function(at, R)
    local m = first + at
    local y = product(k, a, p, s, "", m, R, n0, C)
    if p.act == "silu_mul" then y = y:silu() * product(k, a, p, s, "2", m, R, n0, C) end
    if p.residual then y = y + k:load(a.y, { m, n0 }, R, C, INSIDE) end
    k:store(a.y, { m, n0 }, y, INSIDE)
  end)
end)
