-- matmul.lua - a block computes C columns for a chunk of rows; inside, register tiles of R rows, R as large as still
-- fits, so that each line of weights is unpacked once for R rows. K is walked once, upwards, in every tile.
local INSIDE = { inside = true }

-- Tiles of rows x column blocks, measured on each width of vectors (autotune/results/host-notes.md).
local function best_tile(p)
  if target.vector_bits == 512 then return 4, 4 end
  if target.vector_bits == 128 then return target.vector_registers == 32 and 6 or 2, 1 end
  local x = weight_formats[p.w].x
  return x == "s8" and 3 or x == "bf16" and 4 or 6, x == "s8" and 2 or 1
end

return schedule "matmul" {
  settings = { rows = { 4, 12, 1, 2, 3, 5, 6, 8 }, cols = { 4, 2, 8, 1 }, chunk = { 96, 8, 1, 32, 64, 128, 256 },
               unroll = { 1, 2 }, ahead = { 0, 1, 2, 4 } },
  -- bucket: most rows of a call. One row reads whole panels as one stream; more rows take as many as the registers
  -- hold.
  default = function(p, bucket)
    local rows, cols = best_tile(p)
    if bucket == 1 then return { rows = 1, cols = target.vector_bits == 128 and 1 or 4, chunk = 1, ahead = 0 } end
    return { rows = rows, cols = cols, chunk = 96, ahead = bucket == 4 and 0 or bucket == 8 and 2 or 1 }
  end,
  -- Sums that fit the registers, column blocks that divide N, chunks and prefetches that a call of this size can use.
  sensible = function(p, s, bucket)
    if s.cols ~= power_of_two_divisor(round_up(p.n, 16) // 16, s.cols) or s.chunk < s.rows then return false end
    if s.rows * s.cols * (512 // target.vector_bits) > target.vector_registers - 4 then return false end
    if s.ahead > 0 and (s.cols * 16 ~= panel_wide or s.rows == 1) or s.unroll > 1 and s.rows * s.cols > 8 then return false end
    if not bucket then return true end
    if bucket == 1 then return s.rows == 1 and s.chunk == 1 end
    if bucket == 0 then return s.rows > 1 and s.chunk > 8 end
    return s.rows <= bucket and (s.chunk == 96 or s.rows > 1 and (s.chunk == s.rows or s.chunk == 8 and bucket > 8))
  end,
} (function(k, a, p, s)
  local f, K, N, over = weight_formats[p.w], round_up(p.k, 16), round_up(p.n, 16), p.over or "tokens"
  local C = power_of_two_divisor(N // 16, s.cols) * 16
  k:tiles({ n = N // C }, { size = over, div = s.chunk })
  local n0, first = k:block(0) * C, k:block(1) * s.chunk

  -- While a tile of rows computes, it brings `ahead` quarters of the columns that come next into the second cache: the
  -- first tiles of a chunk between them fetch all of it, at the pace of the arithmetic.
  local function upcoming(w, m, k0)
    if s.ahead == 0 or C ~= panel_wide or K % 128 ~= 0 then return end
    local quarter = m % s.chunk // s.rows * s.ahead
    local wanted = quarter:lt(4) & (n0 + C):lt(N)
    return k:view(w, { quarter:min(4 - s.ahead) * (K // 4) + k0 * s.ahead // 4, k:select(wanted, n0 + C, n0) }, 1, 16, INSIDE)
  end

  local function multiply(acc, w, m, R, k0, length)
    k:gemm(acc, k:view(a.x, { m, k0 }, R, length, INSIDE), k:view(w, { k0, n0 }, length, C, INSIDE), s.unroll,
           upcoming(w, m, k0), s.ahead)
  end

  -- One group of K: integer (or offset bf16) dot products start at -zero * sum(x), then scale into the f32 sum.
  local function add_group(acc, side, m, R, g, length)
    local zero = p.zeros and k:load(a["zero" .. side], { g, n0 }, 1, C):cast(f.acc) + (f.offset or 0)
    local x_sum = k:load(a.x_sum, { m, g }, R, 1, INSIDE)
    local part = k:frag(f.acc, R, C, "acc"):set(x_sum * (zero and -zero or -(f.zero + (f.offset or 0))))
    multiply(part, a["w" .. side], m, R, g * p.group, length)
    local sum = part:f32()
    if f.x == "s8" then sum = sum * k:load(a.x_scale, { m, g }, R, 1, INSIDE) end
    acc:set(k:fma(sum, k:load(a["scale" .. side], { g, n0 }, 1, C):f32(), acc))
  end

  local function product(side, m, R)
    local acc = k:frag("f32", R, C, "acc"):set(0)
    if f.acc then
      local whole = p.k // p.group
      k:range(0, whole, 1, function(g) add_group(acc, side, m, R, g, p.group) end)
      if p.k % p.group > 0 then add_group(acc, side, m, R, k:const("s64", whole), K - whole * p.group) end
    else
      multiply(acc, a["w" .. side], m, R, k:const("s64", 0), K)
    end
    return p.bias and acc + k:load(a["bias" .. side], { n0 }, 1, C) or acc
  end

  k:peel((k:size(over) - first):min(s.chunk), falling_sizes(s.rows), function(at, R)
    local m = first + at
    local y = product("", m, R)
    if p.act == "silu_mul" then y = y:silu() * product("2", m, R) end
    if p.residual then y = y + k:load(a.y, { m, n0 }, R, C, INSIDE) end
    k:store(a.y, { m, n0 }, y, INSIDE)
  end)
end)
