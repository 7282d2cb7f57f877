-- sample.lua - one row a block, with as many threads as a tile of the row keeps busy. What is kept is always
-- "x > bound, or x == bound and token <= last". Bounds are found by bisection on the integer that orders like the
-- float, four of them at a time. Only groups whose peak reaches the bound are listed and seen again, so a top-k of 50
-- visits 50 groups. A weight is an integer, a multiple of 2^-35 (see the operator), so sums are exact in any order.
local NONE, GROUP, TRIES = -math.huge, logits_group, 4
local QUANTUM = 2.0 ^ -12 -- (w + QUANTUM) - QUANTUM is a multiple of 2^-35
local UNIT = 2.0 ^ 35

-- The integer (s64) that orders like the float, and back.
local function flip(bits) return bits ~ ((bits >> 31) & 0x7fffffff) end
local function key_of(x) return flip(x:bitcast("s32")):cast("s64") end
local function float_of(key) return flip(key:cast("s32")):bitcast("f32") end

local function scalar(k, elem, value) return k:frag(elem, 1, 1):set(value) end
local function ones(k, pred) return k:select(pred, k:const("s32", 1), 0) end
local function any(pred_as_s32) return pred_as_s32:reduce("max", "cols"):reduce("max", "rows"):gt(0) end

-- Brings the keys `low`, for which holds(low), and `high`, for which it does not, together. holds takes a column of
-- keys between them; a turn leaves a fifth.
local function bisect(k, low, high, holds)
  k:range(0, 16, 1, function()
    k:when((high - low):gt(1), function()
      local at = low + (high - low) * (k:row(TRIES) + 1):cast("s64") / (TRIES + 1)
      local yes = holds(at) | at:le(low)
      local lower = k:select(yes, at, low):reduce("max", "rows")
      local upper = k:select(yes, high, at):reduce("min", "rows")
      low:set(lower)
      high:set(upper)
    end)
  end)
end

local Row = {}
Row.__index = Row

function Row:load_group(g) return load_group(self.k, self.a, self.p, self.row, g) end
function Row:logit(token) return self.k:load(self.a.logits, { self.row, token }) end

-- ---- adjustments --------------------------------------------------------------------------------------------------

-- Calls some(at, here, token) for the adjustments from `at` on, token [1,n]; `here` is false behind the last, where
-- token is the first one's. Where tokens repeat, one(i) for each of them instead. `backwards`: from the last one on.
function Row:adjustments(backwards, some, one)
  local k, n, count = self.k, self.entries, self.past - self.first
  k:range(0, (count + (n - 1)) / n, 1, function(turn)
    local at = self.first + (backwards and (count - 1) / n - turn or turn) * n
    local here = k:col(n):lt((self.past - at):cast("s32"))
    local token = k:select(here, k:load(self.a.adjust_token, { at }, 1, n), k:load(self.a.adjust_token, { at }))
    local twice = ones(k, here) * ones(k, token:eq(token:transpose()) & k:col(n):gt(k:row(n)))
    k:when(any(twice), function()
      local last = (at + n):min(self.past)
      k:range(at, last, 1, function(i) one(backwards and at + last - 1 - i or i) end)
    end, function() some(at, here, token) end)
  end)
end

local function adjusted(k, x, r, add) return k:select(x:gt(0), x / r, x * r) + add end

-- In place; the raw logits go to `saved`.
function Row:adjust()
  local k, a, n = self.k, self.a, self.entries
  self:adjustments(false, function(at, here, token)
    local function value(c)
      return k:select(here, k:load(a.adjust_value, { at, c }, n, 1):reshape(1, n), k:load(a.adjust_value, { at, c }))
    end
    local x = k:gather(a.logits, { self.row, 0 }, token)
    k:scatter(a.saved, { at }, k:select(here, k:col(n), 0), x) -- behind the last, the first one again
    k:scatter(a.logits, { self.row, 0 }, token, adjusted(k, x, value(0), value(1)))
  end, function(i)
    local token = k:load(a.adjust_token, { i })
    local x = self:logit(token)
    k:store(a.saved, { i }, x)
    local function value(c) return k:load(a.adjust_value, { i, c }) end
    k:store(a.logits, { self.row, token }, adjusted(k, x, value(0), value(1)))
  end)
end

-- Back to the raw logits; last first, since a token may be listed twice.
function Row:restore()
  local k, a, n = self.k, self.a, self.entries
  self:adjustments(true, function(at, here, token)
    local x = k:select(here, k:load(a.saved, { at }, 1, n), k:load(a.saved, { at }))
    k:scatter(a.logits, { self.row, 0 }, token, x)
  end, function(i) k:store(a.logits, { self.row, k:load(a.adjust_token, { i }) }, k:load(a.saved, { i })) end)
end

-- ---- peaks, log-sum-exp -------------------------------------------------------------------------------------------

-- fn(first, peaks [1,n], groups [1,n]) for all; sums up or folds nothing by itself.
function Row:each_peaks(fn)
  local k, n = self.k, self.width
  for j = 0, self.padded - 1, n do fn(j, k:load(self.peaks, { j }, 1, n), k:col(n) + j) end
end

-- Peaks of the adjusted logits, -inf behind the last; and the largest of all.
function Row:find_peaks()
  local k, p, groups, n = self.k, self.p, logits_groups(self.p), self.tile * self.several
  for j = 0, self.padded - 1, self.width do
    local x = k:load(self.a.peaks, { self.row, j }, 1, self.width)
    k:store(self.peaks, { j }, j + self.width <= groups and x or k:select(k:col(self.width):lt(groups - j), x, NONE))
  end
  k:when(self.past:gt(self.first), function()
    k:range(0, groups, n, function(g)
      local x = k:load(self.a.logits, { self.row, g * GROUP }, 1, n * GROUP)
      local token = k:col(n * GROUP) + (g * GROUP):cast("s32")
      if p.vocab % (n * GROUP) ~= 0 then x = k:select(token:lt(p.vocab), x, NONE) end
      k:store(self.peaks, { g }, x:reshape(n, GROUP):highest():reshape(1, n))
    end)
  end)
  local top
  self:each_peaks(function(_, x) top = top and top:max(x) or x end)
  self.top = scalar(k, "f32", top:highest())
end

-- {max, log-sum-exp} of the raw logits, from the segments' sums.
function Row:log_sum_exp()
  local k, count = self.k, logits_segments(self.p)
  local n = power_of_two_up(count)
  local function segments(i) return k:load(self.a.segments, { self.row, 0, i }, n, 1):reshape(1, n) end
  local m, sums = segments(0), segments(1)
  if n > count then m = k:select(k:col(n):lt(count), m, NONE) end
  local top = m:highest()
  return top, top + (sums * (m - top):exp()):reduce("add", "cols", GROUP):log()
end

-- The first token whose logit is the largest.
function Row:argmax()
  local k, none, at = self.k, logits_groups(self.p) - 1, nil
  self:each_peaks(function(_, x, g)
    local first = k:select(x:eq(self.top), g, none)
    at = at and at:min(first) or first
  end)
  local x, token = self:load_group(at:reduce("min"):cast("s64"))
  return k:select(x:eq(self.top), token, self.p.vocab - 1):reduce("min")
end

-- ---- what is kept -------------------------------------------------------------------------------------------------

-- Lists the groups that hold a logit >= least, in order; the others' numbers go behind the list.
function Row:list_groups(least)
  local k, n = self.k, self.width
  self.count:set(0)
  self:each_peaks(function(j, x, g)
    local in_list = ones(k, x:ge(least) & g:lt(logits_groups(self.p)))
    local at = k:select(in_list:gt(0), in_list:scan() - 1 + self.count:cast("s32"), k:col(n) + self.padded)
    k:scatter(self.list, { 0 }, at, g)
    self.count:set(self.count + in_list:reduce("add"):cast("s64"))
  end)
end

-- The listed groups from place i on, a tile of them a row: logits, -inf behind the list and the vocabulary, and tokens.
function Row:listed(i, rows)
  local k, n = self.k, self.tile * rows
  local here = k:col(n):lt((self.count - i):cast("s32"))
  local g = k:select(here, k:load(self.list, { i }, 1, n), -1):reshape(n, 1)
  local token = g * GROUP + k:col(GROUP)
  local valid = g:ge(0) & token:lt(self.p.vocab)
  local x = k:select(valid, k:gather(self.a.logits, { self.row, 0 }, k:select(valid, token, 0)), NONE)
  return x:reshape(rows, self.tile * GROUP), token:reshape(rows, self.tile * GROUP)
end

function Row:kept(x, token, last) return x:gt(self.bound) | (x:eq(self.bound) & token:le(last)) end

-- Two measures of a set: how many elements it has, and how much they weigh. What is behind the list is below any bound
-- that is looked for, and weighs nothing.
local function number(row) return row.k:const("s32", 1) end
local function weight(row, x)
  local w = (((x - row.top) * row.inverse_temperature):exp() + QUANTUM) - QUANTUM
  return (w * UNIT):cast("s64"), w
end
local measures = { s32 = number, s64 = weight }

-- Of the elements for which test(x, token), [rows, n]: their measure, s64 [rows, 1].
function Row:measure(elem, rows, test)
  local k = self.k
  local sum = k:frag(elem, rows, self.tile * GROUP):set(0)
  k:range(0, self.count, self.tile, function(i)
    local x, token = self:listed(i, 1)
    sum:set(sum + k:select(test(x, token), measures[elem](self, x), 0))
  end)
  return sum:reduce("add"):cast("s64")
end

-- Weights of the listed groups from place i on, 0 for what is not kept or below the floor.
function Row:weights(i, rows)
  local x, token = self:listed(i, rows)
  local units, w = weight(self, x)
  return self.k:select(self:kept(x, token, self.last) & w:ge(self.floor), units, 0)
end

-- The sums of what is kept: by tile, and in all. Several tiles a turn, so that enough loads are under way.
function Row:weigh(floor)
  local k, rows = self.k, self.several
  self.floor:set(floor)
  self.total:set(0)
  k:range(0, self.count, self.tile * rows, function(i)
    local sums = self:weights(i, rows):reduce("add")
    k:store(self.sums, { i / self.tile }, sums:reshape(1, rows))
    self.total:set(self.total + sums:reduce("add", "rows"))
  end)
end

-- Of several logits that equal the bound, keeps the first ones, as few as measure `target` with what lies above it.
function Row:cut_equals(elem, target)
  local k = self.k
  local low, high = scalar(k, "s64", -1), scalar(k, "s64", self.p.vocab - 1)
  bisect(k, low, high, function(token)
    return self:measure(elem, TRIES, function(x, t) return self:kept(x, t, token:cast("s32")) end):lt(target)
  end)
  self.last:set((low + 1):cast("s32"))
end

-- Moves bound and last to the smallest set of the most likely tokens that measures `target`, lower tokens first among
-- equals. What is kept before measures that much.
function Row:cut(elem, target)
  local k = self.k
  local low, high = scalar(k, "s64", key_of(self.bound)), scalar(k, "s64", key_of(self.top) + 1)
  bisect(k, low, high, function(key)
    return self:measure(elem, TRIES, function(x) return x:ge(float_of(key)) end):ge(target)
  end)
  self.bound:set(float_of(low))
  self.last:set(self.p.vocab - 1)
  self:list_groups(self.bound)
  local equals = self:measure("s32", 1, function(x) return x:eq(self.bound) end)
  k:when(equals:gt(1), function() self:cut_equals(elem, target) end)
end

-- The k-th largest peak: the k-th largest logit is not below it. -inf when there are fewer peaks.
function Row:top_peak(count)
  local k = self.k
  local low, high = scalar(k, "s64", key_of(k:const("f32", NONE))), scalar(k, "s64", key_of(self.top) + 1)
  bisect(k, low, high, function(key)
    local sum
    self:each_peaks(function(_, x)
      local above = ones(k, x:ge(float_of(key)))
      sum = sum and sum + above or above
    end)
    return sum:reduce("add"):ge(count)
  end)
  return float_of(low)
end

-- Shortens the list to groups that hold the weight `target`: tries bounds 2, 4, ... 12 and 26 below the top, in units
-- of the temperature; from 26 on weights are 0.
function Row:narrow(target)
  local k, found = self.k, scalar(self.k, "s32", 0)
  k:range(1, 8, 1, function(try)
    k:when(found:eq(0), function()
      local below = k:select(try:lt(7), try:cast("f32") * 2.0, 26.0)
      self.bound:set(self.top - below / self.inverse_temperature)
      self:list_groups(self.bound)
      self:weigh(0.0)
      found:set(ones(k, self.total:ge(target)))
    end)
  end)
end

function Row:select(top_k, top_p, min_p)
  local k, limited = self.k, top_k:ge(1) & top_k:lt(self.p.vocab)
  self.bound:set(NONE)
  self.last:set(self.p.vocab - 1)
  k:when(limited, function() self.bound:set(self:top_peak(top_k)) end)
  self:list_groups(self.bound)
  k:when(limited, function() self:cut("s32", top_k:cast("s64")) end)
  self:weigh(k:select(top_p:lt(1), 0.0, min_p))
  k:when(top_p:lt(1), function()
    local exact = self.total:cast("f64") * top_p:cast("f64")
    local whole = exact:cast("s64")
    local up = ones(k, whole:cast("f64"):lt(exact)):cast("s64")
    local target = scalar(k, "s64", (whole + up):max(1)) -- at least one token
    k:when(limited:eq(false), function() self:narrow(target) end)
    self:cut("s64", target)
    self:weigh(min_p)
  end)
end

-- ---- the draw -----------------------------------------------------------------------------------------------------

-- How many of the terms [1,n] come before the running sum, which starts at `sum`, exceeds the target; and their sum.
local function leading(k, terms, sum, target)
  local sums = terms:scan() + sum
  local before = sums:le(target)
  return ones(k, before):reduce("add"):cast("s64"), k:select(before, sums, sum):reduce("max")
end

function Row:draw(u)
  local k, n = self.k, self.tile
  local target = (self.total:cast("f64") * u:cast("f64")):cast("s64")
  local tiles = (self.count + (n - 1)) / n
  local sums = k:select(k:col(self.tiles):lt(tiles:cast("s32")), k:load(self.sums, { 0 }, 1, self.tiles), 0)
  local tile, before = leading(k, sums, k:const("s64", 0), target)
  local first = tile:min(tiles - 1) * n
  local at = leading(k, self:weights(first, 1), before, target):min(n * GROUP - 1)
  return (k:load(self.list, { first + at / GROUP }) * GROUP + (at % GROUP):cast("s32")):min(self.p.vocab - 1)
end

-- A tile has 32 groups at most, 4 elements a thread; passes over the whole row take several at once.
return schedule "sample" {} (function(k, a, p, s)
  local groups = logits_groups(p)
  local tile = math.min(32, power_of_two_up(groups))
  local warps = math.max(1, tile * GROUP // (4 * target.gpu.wave))
  local width = math.min(power_of_two_up(groups), 4 * warps * target.gpu.wave)
  local padded, tiles = round_up(groups, width), power_of_two_up(ceil_div(groups, tile))
  k:warps(1, warps)
  k:tiles("outputs")
  local row = k:block(0)
  local r = setmetatable({ k = k, a = a, p = p, row = row, tile = tile, tiles = tiles, several = math.min(4, tiles),
    width = width, padded = padded, entries = warps >= 8 and 64 or 16,
    peaks = k:shared("f32", { round_up(padded, tile) }), list = k:shared("s32", { padded + width }),
    sums = k:shared("s64", { tiles }), count = scalar(k, "s64", 0), total = scalar(k, "s64", 0),
    bound = scalar(k, "f32", NONE), last = scalar(k, "s32", 0), floor = scalar(k, "f32", 0),
    first = k:load(a.adjust_start, { row }):cast("s64"),
    past = k:load(a.adjust_start, { row + 1 }):cast("s64") }, Row)
  local function parameter(i) return k:load(a.sample_params, { row, i }) end

  r:adjust()
  r:find_peaks()
  local token = k:frag("s32", 1, 1):set(r:argmax())
  r.inverse_temperature = parameter(0)
  k:when(r.inverse_temperature:gt(0) & r.top:gt(NONE), function()
    r:select(parameter(4):cast("s32"), parameter(1), parameter(2))
    k:when(r.total:gt(0), function() token:set(r:draw(parameter(3))) end)
  end)
  r:restore()

  local top, z = r:log_sum_exp()
  k:store(a.logz, { row, 0 }, top)
  k:store(a.logz, { row, 1 }, z)
  k:store(a.sampled, { row }, token)
  k:store(a.sampled_logprob, { row }, r:logit(token) - z)
end)
