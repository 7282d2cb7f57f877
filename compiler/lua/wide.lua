-- wide.lua - rows on GPUs: a block takes a row, or a few short ones, as tiles of 16 to 4096 columns that stay in
-- registers from the first pass to the last, so memory is read once. A row is summed as one tile, column by column over
-- its pieces, then as a tree over the tile: the order depends on the row's length only.

-- Columns of a tile for rows of n elements.
function wide_columns(n)
  return math.max(16, math.min(power_of_two_up(n), n > 16384 and 4096 or n > 8192 and 2048 or 1024))
end

-- Can groups of p.group columns be cut from such tiles? (Always where there are none, or one takes the whole row.)
function wide_fits(p)
  local group = p.group
  return not group or group >= p.n or (power_of_two_up(group) == group and group <= wide_columns(p.n))
end

-- The order in which a row is summed, for an operator's numerics: the width of its tree.
function row_tree(p)
  return { tree = target.gpu and wide_fits(p) and wide_columns(p.n) or 16 }
end

-- A block's warps for tiles of so many elements, as many as leave 16 to a thread; up to `most`.
function wide_warps(elements, most)
  return math.max(1, math.min(most or 8, power_of_two_up(elements) // (16 * target.gpu.wave)))
end

-- How rows are dealt out: { rows = of a block, n = columns of a tile, first = {0, n, 2 n, ...}, row = the block's first
-- one }. Sets warps and grid. `rows` is the size that counts rows; `single`: one row a block.
function Kernel.wide_rows(k, p, s, rows, single)
  local w = { n = wide_columns(p.n), first = {} }
  w.rows = (single or p.n > 256) and 1 or 4
  if w.rows > 1 then k:warps(w.rows, 1) else k:warps(1, s.warps) end
  k:tiles({ size = rows, div = w.rows })
  w.row = k:block(0) * w.rows
  for j = 0, round_up(p.n, 16) - 1, w.n do w.first[#w.first + 1] = j end
  return w
end

-- The settings that such schedules have in common.
function wide_settings() return { warps = { 4, 1, 2, 8, 16 } } end
function wide_default(p) return { warps = wide_warps(p.n, p.n > 16384 and 16 or 8) } end
-- Enough threads that registers suffice, and no more than elements.
function wide_sensible(p, s)
  local each = wide_columns(p.n) / (s.warps * target.gpu.wave)
  return each >= 1 and p.n / (s.warps * target.gpu.wave) <= 64
end

-- fn(piece number, first column) for every tile of the row; its results as a list.
function wide_map(w, fn)
  local list = {}
  for i, first in ipairs(w.first) do list[i] = fn(i, first) end
  return list
end

-- One tile that holds the sum, or the largest, of the pieces, column by column.
function wide_fold(pieces, fn)
  local all = pieces[1]
  for i = 2, #pieces do all = fn(all, pieces[i]) end
  return all
end

local function plus(x, y) return x + y end

function wide_sum(w, pieces) return wide_fold(pieces, plus):reduce("add", "cols", w.n) end

-- ---- what a matmul reads (activation.lua), from wide tiles ----------------------------------------------------------

local function quantized(k, y, amax)
  local inverse = k:select(amax:gt(0), k:const("f32", 127) / amax, 0.0)
  return (y * inverse):cast("s8")
end

-- One group a row.
local function emit_row(k, a, p, w, y)
  local stored
  if p.out == "s8" then
    local amax = wide_fold(wide_map(w, function(i) return y[i]:abs() end), function(u, v) return u:max(v) end):highest()
    k:store(a.y_scale, { w.row, 0 }, amax / 127)
    stored = wide_map(w, function(i) return quantized(k, y[i], amax) end)
  else
    stored = wide_map(w, function(i) return y[i]:cast("bf16") end)
  end
  wide_map(w, function(i, first) k:store(a.y, { w.row, first }, stored[i]) end)
  local sums = wide_map(w, function(i) return stored[i]:cast(p.out == "s8" and "s32" or "f32") end)
  k:store(a.y_sum, { w.row, 0 }, wide_sum(w, sums))
end

-- Groups as the rows of a tile; the same registers.
local function emit_groups(k, a, p, w, y)
  local each = w.n // p.group
  local function in_groups(x) return x:reshape(w.rows * each, p.group) end
  local function put(to, first, x) k:store(to, { w.row, first // p.group }, x:reshape(w.rows, each)) end
  wide_map(w, function(i, first)
    local x, elem = in_groups(y[i]), "f32"
    if p.out == "s8" then
      local amax = x:abs():highest()
      put(a.y_scale, first, amax / 127)
      x, elem = quantized(k, x, amax), "s32"
    else
      x = x:cast("bf16")
    end
    k:store(a.y, { w.row, first }, x:reshape(w.rows, w.n))
    put(a.y_sum, first, x:cast(elem):reduce("add", "cols", w.n))
  end)
end

-- y: the pieces of the block's rows, f32 [rows, n], 0 behind the row's end.
function emit_wide(k, a, p, w, y)
  if not p.group then
    wide_map(w, function(i, first) k:store(a.y, { w.row, first }, y[i]:cast(p.out)) end)
  elseif p.group >= p.n then
    emit_row(k, a, p, w, y)
  else
    emit_groups(k, a, p, w, y)
  end
end

-- ---- norms (norm.lua) ---------------------------------------------------------------------------------------------

-- The pieces of the rows that are normed: x, to which the residual is added, and which is stored back then. All loads
-- are under way before the first store.
function norm_rows_in(k, a, p, w, from)
  local function load(m, row) return wide_map(w, function(_, j) return k:load(m, { row, j }, w.rows, w.n) end) end
  local x, residual = load(a.x, from), p.residual and load(a.residual, w.row)
  return not residual and x or wide_map(w, function(i, j)
    local sum = x[i] + residual[i]
    k:store(a.x, { w.row, j }, sum)
    return sum
  end)
end

-- early: the weights are loaded before the row is summed, for calls of few rows, which wait for memory; with many rows,
-- the registers are better spent on more blocks.
norm_settings = wide_settings()
norm_settings.early = { false, true }
function norm_default(p, bucket)
  local s = wide_default(p)
  s.early = (bucket or 0) > 0 and bucket <= 64
  return s
end

-- The weights of piece i, as a function: loaded now, or when they are asked for.
function norm_weights(k, a, w, s)
  local function load(_, j) return k:load(a.w, { j }, 1, w.n) end
  local now = s.early and wide_map(w, load)
  return function(i) return now and now[i] or load(i, w.first[i]) end
end
