-- matmul.lua - a block computes `cols` column blocks of 16 for a chunk of rows; inside, register tiles of R rows, R as large as
-- still fits, so that each line of weights is unpacked once for R rows. K is walked once, upwards, in every tile.
local INSIDE = { inside = true }

-- One group of K: integer (or offset bf16) dot products start at -zero * sum(x), then scale into the f32 sum.
local function add_group(k, a, p, side, acc, m, R, n0, C, g, length)
  local f = weight_formats[p.w]
  local zero = p.zeros and k:load(a["zero" .. side], { g, n0 }, 1, C):cast(f.acc) + (f.offset or 0)
  local x_sum = k:load(a.x_sum, { m, g }, R, 1, INSIDE)
  local part = k:frag(f.acc, R, C, "acc"):set(x_sum * (zero and -zero or -(f.zero + (f.offset or 0))))
  k:gemm(part, k:view(a.x, { m, g * p.group }, R, length, INSIDE), k:view(a["w" .. side], { g * p.group, n0 }, length, C, INSIDE), 2)
  local sum = part:f32()
  if f.x == "s8" then sum = sum * k:load(a.x_scale, { m, g }, R, 1, INSIDE) end
  acc:set(k:fma(sum, k:load(a["scale" .. side], { g, n0 }, 1, C):f32(), acc))
end

-- x W for R rows from m and C columns from n0.
local function product(k, a, p, s, side, m, R, n0, C)
  local f, padded = weight_formats[p.w], round_up(p.k, 16)
  local acc = k:frag("f32", R, C, "acc"):set(0)
  if not f.acc then
    k:gemm(acc, k:view(a.x, { m, 0 }, R, padded, INSIDE), k:view(a["w" .. side], { 0, n0 }, padded, C, INSIDE), s.unroll)
  else
    local whole = p.k // p.group
    k:range(0, whole, 1, function(g) add_group(k, a, p, side, acc, m, R, n0, C, g, p.group) end)
    if p.k % p.group > 0 then
      add_group(k, a, p, side, acc, m, R, n0, C, k:const("s64", whole), padded - whole * p.group)
    end
  end
  return p.bias and acc + k:load(a["bias" .. side], { n0 }, 1, C) or acc
end

-- Rows of a tile by the columns it spans: as many accumulators as the registers hold beside the unpacked weights.
local function pieces(rows_max) -- 12 -> {12, 8, 4, 2, 1}
  local list = {}
  for _, r in ipairs { 12, 8, 6, 4, 3, 2, 1 } do
    if r <= rows_max and (r ~= 6 or rows_max == 6) and (r ~= 3 or rows_max == 3) then list[#list + 1] = r end
  end
  return list
end

-- Column blocks of a tile: the largest power of two up to `most` that divides them all.
local function tile_blocks(blocks, most)
  local d = 1
  while d * 2 <= most and blocks % (d * 2) == 0 do d = d * 2 end
  return d
end

return schedule "matmul" {
  settings = { rows = { 12, 4, 1 }, cols = { 2, 4, 8 }, chunk = { 96, 8 }, unroll = { 2, 1 } },
  -- bucket: most rows of a call. One row: whole panels, read as one stream; more rows: as many as the registers hold.
  default = function(p, bucket)
    local wide, pair = target.vector_registers == 32 and target.vector_bits == 512, p.act ~= nil
    if not wide then
      local rows = bucket == 1 and 1 or target.vector_bits == 256 and 3 or 2
      return { rows = rows, cols = 1, chunk = 96, unroll = 2 }
    end
    if bucket == 1 then return { rows = 1, cols = pair and 4 or 8, chunk = 1, unroll = 2 } end
    if bucket == 4 then return { rows = 4, cols = pair and 2 or 4, chunk = 4, unroll = 1 } end
    if bucket == 8 or bucket == 16 then return { rows = 8, cols = 2, chunk = bucket, unroll = 1 } end
    return { rows = 12, cols = 2, chunk = 96, unroll = 1 }
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
