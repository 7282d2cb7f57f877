-- sample.lua - the next token of every row. In this order, as transformers applies them:
--   adjustments   logit = (logit > 0 ? logit / r : logit * r) + a for the tokens listed for the row
--   temperature   weight w = exp((logit - max) / temperature), rounded to a multiple of 2^-35. Weights are summed in
--                 f64, so sums are exact in any order (up to 2^18 tokens), and a token of less than 2^-36 never comes
--   top_k         the k largest logits (0: off); among equal ones lower tokens first
--   top_p         of those, the smallest set of the most likely that has >= top_p of the weight, at least one (1: off)
--   min_p         of those, w >= min_p (the largest weight is 1)
--   draw          the first token, in the order of tokens, at which the running sum of weights exceeds u * their total
-- Temperature 0 (1/temperature given as 0) takes the largest logit, the lowest token among equal ones; so does a row of
-- which nothing can be drawn. sample_params: {1/temperature, top_p, min_p, u, top_k, 0, 0, 0}. The logits are raw again
-- at the end; sampled_logprob and logz = {max, log-sum-exp} are those of the raw logits. `saved` is working memory.
-- Sources: Fan et al. 2018 (top-k), https://arxiv.org/abs/1805.04833; Holtzman et al. 2019 (top-p),
-- https://arxiv.org/abs/1904.09751; Nguyen et al. 2024 (min-p), https://arxiv.org/abs/2407.01082
local function adjusted_row(p, t, row)
  local x, touched = {}, {}
  for i = 0, p.vocab - 1 do x[i] = t.logits:get(row, i) end
  for i = t.adjust_start:get(row), t.adjust_start:get(row + 1) - 1 do touched[#touched + 1] = math.tointeger(i) end
  for _, i in ipairs(touched) do
    local token, r, add = math.tointeger(t.adjust_token:get(i)), t.adjust_value:get(i, 0), t.adjust_value:get(i, 1)
    t.saved:set(x[token], i)
    x[token] = (x[token] > 0 and x[token] / r or x[token] * r) + add
  end
  return x
end

-- Tokens from the most likely one down, lower ones first among equals.
local function ranking(p, x)
  local order = {}
  for i = 0, p.vocab - 1 do order[i + 1] = i end
  table.sort(order, function(i, j) return x[i] > x[j] or (x[i] == x[j] and i < j) end)
  return order
end

local function cut_at(order, weight, target)
  local sum = 0
  for n, token in ipairs(order) do
    sum = sum + weight[token]
    if sum >= target then return n end
  end
  return #order
end

local function draw(p, x, inverse, top_p, min_p, u, top_k)
  local order, weight, total, kept = ranking(p, x), {}, 0, {}
  local top = x[order[1]]
  if inverse == 0 or top == -math.huge then return order[1] end
  for i, logit in pairs(x) do weight[i] = math.exp((logit - top) * inverse) end
  local count = top_k >= 1 and math.min(top_k, p.vocab) or p.vocab
  for n = 1, count do total = total + weight[order[n]] end
  if top_p < 1 then count = math.min(count, cut_at(order, weight, top_p * total)) end
  total = 0
  for n = 1, count do
    local token = order[n]
    if weight[token] >= min_p then total, kept[token] = total + weight[token], true end
  end
  local sum = 0
  for token = 0, p.vocab - 1 do
    if kept[token] then sum = sum + weight[token] end
    if sum > u * total then return token end
  end
end

-- One distribution a row, in turn: spread, peaked, with ties, with forbidden tokens, all equal, everything forbidden.
local function logit_of(p, random, row, i)
  if i >= p.vocab then return 1e30 end
  local kind, x = row % 6, random.normal()
  if kind == 0 then return 3 * x end
  if kind == 1 then return i % 97 == 5 and 12 + x or x end
  if kind == 2 then return math.floor(2 * x) end
  if kind == 3 then return x < 0 and -math.huge or 4 * x end
  return kind == 4 and -2.5 or -math.huge
end

-- {1/temperature, top_p, min_p, top_k}, in turn
local settings = {
  { 0, 1, 0, 0 }, { 1, 1, 0, 0 }, { 1.25, 1, 0, 5 }, { 0.8, 0.9, 0, 0 }, { 1, 0.95, 0, 40 }, { 2, 1, 0.1, 0 },
  { 1, 0.5, 0.02, 20 }, { 1, 1, 0, 1 }, { 1, 1e-6, 0, 0 }, { 0.5, 0.999, 0, 0 }, { 1, 1, 0, 1e6 }, { 0.1, 0.7, 0, 300 },
  { 1e5, 0.9, 0, 0 }, { 1, 0, 1, 0 }, { 0.3, 0.3, 0.4, 0 }, { 1, 1, 0.3, 7 }, { 1e-3, 0.25, 0, 0 },
}

-- Inputs with the same logits in every row, and a draw at the start of each of as many equal parts of [0, 1), so that
-- every boundary of the cumulative distribution shows; the first token is forbidden.
local function one_distribution(logit)
  return function(p, t, sizes, random)
    t.logits:fill(function(row, i)
      if i == 0 or i >= p.vocab then return -math.huge end
      return row == 0 and logit(random) or t.logits:get(0, i)
    end)
    logits_scan_reference(p, t, sizes)
    t.adjust_start:fill(function() return 0 end)
    t.sample_params:fill(function(row, i) return ({ 0.7, 1, 0, row / sizes.outputs, 0, 0, 0, 0 })[i + 1] end)
  end
end

local function spread(random) return 2 * random.normal() end
local function even() return 1.5 end

-- Many equal logits, and both top-k and top-p: each may cut among equals.
local function equals(p, t, sizes, random)
  t.logits:fill(function() return random.integer(0, 5) / 2 end)
  logits_scan_reference(p, t, sizes)
  t.adjust_start:fill(function() return 0 end)
  t.sample_params:fill(function(row, i)
    if i == 1 or i == 3 then return random.uniform(0, 1) end
    return ({ 1, 0, 0, 0, random.integer(1, p.vocab), 0, 0, 0 })[i + 1]
  end)
end

return operator "sample" {
  doc = "logit adjustments, temperature, top-k, top-p, min-p and the draw; log-sum-exp and the token's log-probability",
  args = function(p)
    return {
      logits_argument(p, "inout"), logits_peaks(p, "in"), logits_summaries(p, "in"),
      argument("sample_params", "f32", { "outputs", 8 }),
      argument("adjust_start", "s32", { { 2, "outputs" } }), -- [outputs + 1]: row r: entries start[r] to start[r+1] - 1
      argument("adjust_token", "s32", { "extra" }), argument("adjust_value", "f32", { "extra", 2 }),
      argument("saved", "f32", { "extra" }, "out"),
      argument("sampled", "s32", { "outputs" }, "out"), argument("sampled_logprob", "f32", { "outputs" }, "out"),
      argument("logz", "f32", { "outputs", 2 }, "out"),
    }
  end,
  numerics = function() return { tree = logits_group } end,
  inputs = function(p, t, sizes, random)
    local rows, extra = sizes.outputs, sizes.extra
    t.logits:fill(function(row, i) return logit_of(p, random, row, i) end)
    logits_scan_reference(p, t, sizes)
    t.sample_params:fill(function(row, i)
      local s = settings[row % #settings + 1]
      return i == 3 and random.integer(0, (1 << 24) - 1) / (1 << 24) or ({ s[1], s[2], s[3], 0, s[4], 0, 0, 0 })[i + 1]
    end)
    t.adjust_start:fill(function(row) return row <= rows and row * extra // rows or 0 end)
    t.adjust_token:fill(function(i) -- some twice
      return i % 4 == 3 and t.adjust_token:get(i - 1) or random.integer(0, p.vocab - 1)
    end)
    t.adjust_value:fill(function(i, c)
      if c == 0 then return i % 2 == 0 and 1.3 or 1 end
      return i % 5 == 4 and -math.huge or random.normal()
    end)
  end,
  reference = function(p, t, sizes)
    for row = 0, sizes.outputs - 1 do
      local function parameter(i) return t.sample_params:get(row, i) end
      local x = adjusted_row(p, t, row)
      local token = draw(p, x, parameter(0), parameter(1), parameter(2), parameter(3), parameter(4))
      local top, sum = -math.huge, 0
      for i = 0, p.vocab - 1 do top = math.max(top, t.logits:get(row, i)) end
      for i = 0, p.vocab - 1 do sum = sum + math.exp(t.logits:get(row, i) - top) end
      t.sampled:set(token, row)
      t.sampled_logprob:set(t.logits:get(row, token) - top - math.log(sum), row)
      t.logz:set(top, row, 0)
      t.logz:set(top + math.log(sum), row, 1)
    end
  end,
  tolerance = function(p, name) return (name == "logits" or name == "sampled") and 0 or 1e-6 end,
  cases = {
    { p = { vocab = 50 }, sizes = { outputs = 102, extra = 0 } },
    { p = { vocab = 64 }, sizes = { outputs = 102, extra = 408 } },
    { p = { vocab = 1003 }, sizes = { outputs = 204, extra = 1000 } },
    { p = { vocab = 5000 }, sizes = { outputs = 51, extra = 400 } },
    { p = { vocab = 37 }, sizes = { outputs = 512, extra = 0 }, inputs = one_distribution(spread) },
    { p = { vocab = 65 }, sizes = { outputs = 128, extra = 0 }, inputs = one_distribution(even) },
    { p = { vocab = 48 }, sizes = { outputs = 400, extra = 0 }, inputs = equals },
  },
}
