-- sample.lua - one row a block. What is kept is always "x > bound, or x == bound and token <= last"; the bound is found
-- by bisection on the integer that orders like the float. Only groups whose peak reaches the bound are listed and seen
-- again, so a top-k of 50 visits 50 groups. Sums of weights are exact (see the operator): no search has to fear
-- rounding.
local NONE, GROUP = -math.huge, logits_group
local QUANTUM = 2.0 ^ -12 -- (w + QUANTUM) - QUANTUM is a multiple of 2^-35

-- The integer (s64) that orders like the float, and back.
local function flip(bits) return bits ~ ((bits >> 31) & 0x7fffffff) end
local function key_of(x) return flip(x:bitcast("s32")):cast("s64") end
local function float_of(key) return flip(key:cast("s32")):bitcast("f32") end

-- Brings the keys `low`, for which holds(low), and `high`, for which it does not, together: at most `turns` halvings.
local function bisect(k, low, high, turns, holds)
  k:range(0, turns, 1, function()
    k:when((high - low):gt(1), function()
      local middle = low + (high - low) / 2
      k:when(holds(middle), function() low:set(middle) end, function() high:set(middle) end)
    end)
  end)
end

local function scalar(k, elem, value) return k:frag(elem, 1, 1):set(value) end

-- ---- the row: adjustments, peaks, log-sum-exp --------------------------------------------------------------------

local Row = {}
Row.__index = Row

function Row:group(g) return load_group(self.k, self.a, self.p, self.row, g) end

function Row:logit(token) return self.k:load(self.a.logits, { self.row, token }) end

-- In place; the raw logits go to `saved`.
function Row:adjust()
  local k, a = self.k, self.a
  k:range(self.first, self.past, 1, function(i)
    local token = k:load(a.adjust_token, { i })
    local x, r = self:logit(token), k:load(a.adjust_value, { i, 0 })
    k:store(a.saved, { i }, x)
    k:store(a.logits, { self.row, token }, k:select(x:gt(0), x / r, x * r) + k:load(a.adjust_value, { i, 1 }))
  end)
end

-- Back to the raw logits; last first, since a token may be listed twice.
function Row:restore()
  local k, a = self.k, self.a
  k:range(0, self.past - self.first, 1, function(n)
    local i = self.past - 1 - n
    k:store(a.logits, { self.row, k:load(a.adjust_token, { i }) }, k:load(a.saved, { i }))
  end)
end

-- Peaks of the adjusted logits, -inf behind the last; and the largest of all.
function Row:find_peaks()
  local k, a, groups = self.k, self.a, logits_groups(self.p)
  k:range(0, groups, GROUP, function(j)
    local x = k:load(a.peaks, { self.row, j }, 1, GROUP)
    k:store(self.peaks, { j }, k:select((k:col(GROUP) + j:cast("s32")):lt(groups), x, NONE))
  end)
  k:range(self.first, self.past, 1, function(i)
    local g = k:load(a.adjust_token, { i }):cast("s64") // GROUP
    k:store(self.peaks, { g }, self:group(g):highest())
  end)
  local top = k:frag("f32", 1, GROUP):set(NONE)
  k:range(0, groups, GROUP, function(j) top:set(top:max(k:load(self.peaks, { j }, 1, GROUP))) end)
  self.top = top:highest()
end

-- {max, log-sum-exp} of the raw logits: the segments' sums, in order.
function Row:log_sum_exp()
  local k = self.k
  local top, sum = k:frag("f32", 1, 1):set(NONE), k:frag("f32", 1, 1):set(0)
  local function segment(s, i) return k:load(self.a.segments, { self.row, s, i }) end
  k:range(0, logits_segments(self.p), 1, function(s) top:set(top:max(segment(s, 0))) end)
  k:range(0, logits_segments(self.p), 1, function(s)
    sum:set(k:fma(segment(s, 1), (segment(s, 0) - top):exp(), sum))
  end)
  return top, top + sum:log()
end

-- The first token whose logit is the largest.
function Row:argmax()
  local k, none = self.k, logits_groups(self.p) - 1
  local at = k:frag("s32", 1, GROUP):set(none)
  k:range(0, logits_groups(self.p), GROUP, function(j)
    local hit = k:load(self.peaks, { j }, 1, GROUP):eq(self.top)
    at:set(at:min(k:select(hit, k:col(GROUP) + j:cast("s32"), none)))
  end)
  local x, token = self:group(at:reduce("min"):cast("s64"))
  return k:select(x:eq(self.top), token, self.p.vocab - 1):reduce("min")
end

-- ---- what is kept ------------------------------------------------------------------------------------------------

-- Lists the groups that hold a logit >= least.
function Row:list_groups(least)
  local k = self.k
  self.count:set(0)
  k:range(0, logits_groups(self.p), 1, function(g)
    k:store(self.list, { self.count }, g:cast("s32"))
    self.count:set(self.count + k:select(k:load(self.peaks, { g }):ge(least), k:const("s64", 1), 0))
  end)
end

-- fn(place in the list, logits, tokens) for every listed group.
function Row:each(fn)
  local k = self.k
  k:range(0, self.count, 1, function(i) fn(i, self:group(k:load(self.list, { i }):cast("s64"))) end)
end

function Row:kept(x, token, last) return x:gt(self.bound) | (x:eq(self.bound) & token:le(last or self.last)) end

-- Weights of the listed groups, 0 for what is not kept or below `floor`; their sums by group and in all.
function Row:weigh(floor)
  local k = self.k
  self.total:set(0)
  self:each(function(i, x, token)
    local w = (((x - self.top) * self.inverse_temperature):exp() + QUANTUM) - QUANTUM
    w = k:select(self:kept(x, token) & w:ge(floor), w, 0.0)
    k:store(self.weights, { i * GROUP }, w)
    local sum = w:cast("f64"):sum()
    k:store(self.sums, { i }, sum)
    self.total:set(self.total + sum)
  end)
end

-- Two measures of a set: how many elements it has, and how much they weigh.
local function number(row) return row.k:const("s32", 1) end
local function weight(row, i) return row.k:load(row.weights, { i * GROUP }, 1, GROUP) end
local measures = { s32 = number, f64 = weight }

function Row:measure(elem, test)
  local k, sum = self.k, self.k:frag(elem, 1, GROUP):set(0)
  self:each(function(i, x, token)
    local each = measures[elem](self, i)
    sum:set(sum + k:select(test(x, token), each, 0):cast(elem))
  end)
  return sum:sum()
end

-- Keeps in the list, with their weights, only groups that hold a logit from `low` to below `high`.
function Row:prune(low, high)
  local k, count = self.k, scalar(self.k, "s64", 0)
  self:each(function(i, x)
    local undecided = k:select(x:ge(low) & x:lt(high), k:const("s32", 1), 0):reduce("max")
    k:store(self.list, { count }, k:load(self.list, { i }))
    k:store(self.weights, { count * GROUP }, weight(self, i))
    count:set(count + undecided:cast("s64"))
  end)
  self.count:set(count)
end

-- Of several logits that equal the bound, keeps the first ones, as few as measure `target` with what lies above it.
function Row:cut_equals(elem, target)
  local k = self.k
  if elem == "f64" then self:weigh(0.0) end
  local low, high = scalar(k, "s64", -1), scalar(k, "s64", self.p.vocab - 1)
  bisect(k, low, high, 32, function(token)
    return self:measure(elem, function(x, t) return self:kept(x, t, token:cast("s32")) end):lt(target)
  end)
  self.last:set((low + 1):cast("s32"))
end

-- Moves bound and last to the smallest set of the most likely tokens that measures `target`, lower tokens first among
-- equals. What is kept before measures that much. Every few turns, groups without an undecided logit leave the list.
function Row:cut(elem, target)
  local k, sure = self.k, scalar(self.k, elem, 0)
  local low, high = scalar(k, "s64", key_of(self.bound)), scalar(k, "s64", key_of(self.top) + 1)
  k:range(0, 7, 1, function()
    local past = float_of(high)
    local function between(bound) return self:measure(elem, function(x) return x:ge(bound) & x:lt(past) end) end
    bisect(k, low, high, 5, function(key) return (sure + between(float_of(key))):ge(target) end)
    sure:set(sure + between(float_of(high)))
    self:prune(float_of(low), float_of(high))
  end)
  self.bound:set(float_of(low))
  self.last:set(self.p.vocab - 1)
  self:list_groups(self.bound)
  local equals = self:measure("s32", function(x) return x:eq(self.bound) end)
  k:when(equals:gt(1), function() self:cut_equals(elem, target) end)
end

-- The k-th largest peak: the k-th largest logit is not below it. -inf when there are fewer peaks.
function Row:top_peak(count)
  local k = self.k
  local low, high = scalar(k, "s64", key_of(k:const("f32", NONE))), scalar(k, "s64", key_of(self.top) + 1)
  bisect(k, low, high, 33, function(key)
    local sum = k:frag("s32", 1, GROUP):set(0)
    k:range(0, logits_groups(self.p), GROUP, function(j)
      sum:set(sum + k:select(k:load(self.peaks, { j }, 1, GROUP):ge(float_of(key)), k:const("s32", 1), 0))
    end)
    return sum:sum():ge(count)
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
      found:set(k:select(self.total:ge(target), k:const("s32", 1), 0))
    end)
  end)
end

function Row:select(top_k, top_p, min_p)
  local k, limited = self.k, top_k:ge(1) & top_k:lt(self.p.vocab)
  self.bound:set(NONE)
  self.last:set(self.p.vocab - 1)
  k:when(limited, function() self.bound:set(self:top_peak(top_k)) end)
  self:list_groups(self.bound)
  k:when(limited, function() self:cut("s32", top_k) end)
  self:weigh(k:select(top_p:lt(1), 0.0, min_p))
  k:when(top_p:lt(1), function()
    local target = (self.total * top_p:cast("f64")):max(2.0 ^ -35) -- at least one token
    k:when(limited:eq(false), function() self:narrow(target) end)
    self:cut("f64", target)
    self:weigh(min_p)
  end)
end

-- ---- the draw -----------------------------------------------------------------------------------------------------

-- How many of `n` terms come before the running sum, which starts at `sum`, exceeds the target; and their sum.
local function leading(k, n, sum, target, term)
  local sums, before = k:frag("f64", 1, 1):set(sum), k:frag("f64", 1, 1):set(sum)
  local at = k:frag("s64", 1, 1):set(0)
  k:range(0, n, 1, function(i)
    sums:set(sums + term(i))
    local low = sums:le(target)
    before:set(k:select(low, sums, before))
    at:set(at + k:select(low, k:const("s64", 1), 0))
  end)
  return at, before
end

function Row:draw(u)
  local k, target = self.k, self.total * u:cast("f64")
  local i, before = leading(k, self.count, 0.0, target, function(n) return k:load(self.sums, { n }) end)
  i = i:min(self.count - 1)
  local j = leading(k, GROUP, before, target, function(n)
    return k:load(self.weights, { i * GROUP + n }):cast("f64")
  end)
  return (k:load(self.list, { i }) * GROUP + j:cast("s32")):min(self.p.vocab - 1)
end

return schedule "sample" {} (function(k, a, p, s)
  local groups = logits_groups(p)
  k:tiles("outputs")
  local row = k:block(0)
  local r = setmetatable({ k = k, a = a, p = p, row = row,
    peaks = k:shared("f32", { round_up(groups, GROUP) }), list = k:shared("s32", { groups }),
    weights = k:shared("f32", { groups * GROUP }), sums = k:shared("f64", { groups }),
    count = k:frag("s64", 1, 1), total = scalar(k, "f64", 0), bound = k:frag("f32", 1, 1), last = k:frag("s32", 1, 1),
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
