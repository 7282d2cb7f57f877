-- check.lua - runs every schedule and setting on the cases of its operator: against the reference within the tolerance,
-- and bit for bit against the default setting (numerics contract).

-- A small generator of our own, so that inputs are the same on every machine.
local function random_stream(seed)
  local state = seed
  local function uniform()
    state = (state * 6364136223846793005 + 1442695040888963407) & 0x7fffffffffffffff
    return (state >> 31) / 4294967296.0
  end
  return {
    uniform = function(lo, hi) return lo + (hi - lo) * uniform() end,
    integer = function(lo, hi) return lo + math.floor(uniform() * (hi - lo + 1)) end,
    normal = function() return math.sqrt(-2 * math.log(uniform() + 1e-12)) * math.cos(6.283185307 * uniform()) end,
  }
end

local limits = { u4 = { 0, 15 }, u8 = { 0, 255 }, s8 = { -127, 127 }, s32 = { 0, 3 } }

local function make_tensors(record, case, spec)
  local random, t = random_stream(12345), {}
  for _, d in ipairs(record.args) do
    t[d.name] = blade.tensor(d, case.sizes)
    local range = limits[d.elem]
    if d.access ~= "out" then
      t[d.name]:fill(function() return range and random.integer(range[1], range[2]) or random.normal() end)
    end
  end
  local inputs = case.inputs or spec.inputs
  if inputs then inputs(case.p, t, case.sizes, random) end
  return t
end

local function run_kernel(record, case, t)
  local list = {}
  for i, d in ipairs(record.args) do list[i] = t[d.name] end
  blade.run(record.kernel, list, case.sizes)
end

local function copy_tensors(record, case, t)
  local c = {}
  for _, d in ipairs(record.args) do
    c[d.name] = blade.tensor(d, case.sizes)
    c[d.name]:assign(t[d.name]:bits())
  end
  return c
end

-- Calls fn with every coordinate tuple of a tensor.
local function each(tensor, fn)
  local dims, at = { tensor:dims() }, {}
  local function walk(d)
    if d > #dims then return fn(table.unpack(at)) end
    for i = 0, dims[d] - 1 do
      at[d] = i
      walk(d + 1)
    end
  end
  walk(1)
end

-- Largest difference over all elements, relative to the largest reference magnitude; and where.
local function difference(got, want)
  local worst, top, where = 0, 1e-30, ""
  each(want, function(...)
    local w, g = want:get(...), got:get(...)
    local same = w == g or (w ~= w and g ~= g)
    local d = same and 0 or math.abs(w - g)
    if d ~= d then d = math.huge end
    if math.abs(w) < math.huge then top = math.max(top, math.abs(w)) end
    if d > worst then
      worst = d
      where = ("[%s] is %.9g, reference %.9g"):format(table.concat({ ... }, ","), g, w)
    end
  end)
  return worst / top, where
end

local function tolerance_of(spec, p, name)
  local t = spec.tolerance or 1e-5
  if type(t) == "function" then t = t(p, name) end
  return t
end

local function check_case(record, case, spec, expected)
  local t = make_tensors(record, case, spec)
  local reference = copy_tensors(record, case, t)
  run_kernel(record, case, t)
  if expected then -- another setting: every bit must agree with the default's
    for _, d in ipairs(record.args) do
      if d.access ~= "in" and t[d.name]:bits() ~= expected[d.name] then
        local was = blade.tensor(d, case.sizes)
        was:assign(expected[d.name])
        local _, where = difference(t[d.name], was)
        return "not bit-equal to the default setting: " .. d.name .. where
      end
    end
    return nil, expected
  end
  spec.reference(case.p, reference, case.sizes)
  local bits, worst = {}, 0
  for _, d in ipairs(record.args) do
    bits[d.name] = t[d.name]:bits()
    if d.access ~= "in" then
      local err, where = difference(t[d.name], reference[d.name])
      worst = math.max(worst, err)
      if not (err <= tolerance_of(spec, case.p, d.name)) then
        return ("%s%s (relative error %.3g, tolerance %.3g)"):format(d.name, where, err, tolerance_of(spec, case.p, d.name))
      end
    end
  end
  return nil, bits, worst
end

-- Every combination of the schedule's choices.
local function combinations(settings)
  local list = { {} }
  local names = {}
  for name in pairs(settings) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    local longer = {}
    for _, base in ipairs(list) do
      for _, choice in ipairs(settings[name]) do
        local c = {}
        for key, value in pairs(base) do c[key] = value end
        c[name] = choice
        longer[#longer + 1] = c
      end
    end
    list = longer
  end
  return list
end

-- The quick tier takes each choice of each setting once with the others at their default.
local function quick_settings(settings)
  local list = {}
  for name, choices in pairs(settings) do
    for _, choice in ipairs(choices) do list[#list + 1] = { [name] = choice } end
  end
  return list
end

local function report(ok, label, text)
  print((ok and "ok    " or "FAIL  ") .. label .. (text and ": " .. text or ""))
end

local function check_schedule(spec, sch, case, quick)
  local passed, failed, expected = 0, 0, nil
  local tries = { {} }
  for _, s in ipairs(quick and quick_settings(sch.settings) or combinations(sch.settings)) do
    if quick or not sch.sensible or sch.sensible(case.p, s) then tries[#tries + 1] = s end
  end
  local seen = {}
  for _, s in ipairs(tries) do
    local settings = default_settings(sch, case.p)
    for name, value in pairs(s) do settings[name] = value end
    local ok, record = pcall(build_exactly, sch, case.p, settings)
    if not ok then
      report(false, spec.name .. " " .. canonical(case.p) .. " " .. canonical(s), tostring(record))
      failed = failed + 1
    elseif not seen[record.label] then
      seen[record.label] = true
      local ran, err, bits, worst = pcall(check_case, record, case, spec, expected)
      if not ran then err = tostring(err) end
      if err then
        failed = failed + 1
        report(false, record.label .. " sizes " .. canonical(case.sizes), err)
      else
        passed = passed + 1
        if not expected then report(true, record.label .. " " .. canonical(case.sizes), ("error %.2g"):format(worst)) end
        expected = bits
      end
    end
  end
  return passed, failed
end

-- For the tuner, which checks candidates in the same way (tune.lua).
checking = { make_tensors = make_tensors, copy_tensors = copy_tensors, run_kernel = run_kernel, difference = difference,
             tolerance_of = tolerance_of, combinations = combinations, quick_settings = quick_settings }

-- For tests that want to see a failure: the cases after it are left out.
local stop_early = false
function check_until_failure() stop_early = true end

function check_operators(only, quick)
  if only and not operators[only] then error("unknown operator '" .. only .. "'; `bladegen list` names them", 0) end
  local names, passed, failed = {}, 0, 0
  for name in pairs(operators) do
    if not only or only == name then names[#names + 1] = name end
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local spec = operators[name]
    for _, case in ipairs(spec.cases) do
      for _, sch in ipairs(stop_early and failed > 0 and {} or schedules[name]) do
        if sch.body and (not sch.fits or sch.fits(case.p)) then -- source bodies run on GPUs only
          local p, f = check_schedule(spec, sch, case, quick)
          passed, failed = passed + p, failed + f
          break
        end
      end
    end
  end
  return passed, failed
end

-- For tests: the rotary table of a configuration as JSON.
function rope_json(c) return json_encode(rope_of(c.config, c.head_dim)) end
