-- tune.lua - the generator's half of tuning: which cases a model has, which settings are worth a try, and whether they
-- compute the right thing. Called from autotune/candidates.c in this order: tune_collect, plan_model, tune_cases; then
-- for each case tune_prepare, tune_reduced, (kernels are compiled,) tune_failed for those that could not be, tune_verify;
-- then tune_json.
--
-- A case is an operator with parameters and a bucket (most tokens of a step, 0: any). An operator can be tuned when its
-- spec says how it is used:
--   tune = {
--     workloads = function(p, bucket)   list of { name, sizes, data = {argument = function(i)}, typical = {argument = n} }:
--                                       calls to measure; contents of integer arguments; a usual value, for the cost
--     operations = function(p, sizes, data), peak = function(p)    arithmetic, and the limit it is held against
--     reduced = function(p)             { p, sizes }: the same kernel in small, which the reference can compute
--   }
-- Arguments of constant shape and KV pages are cold: a model has more of them than any cache holds.

local cases, by_key, options = {}, {}, {}

-- options = {threads, most = candidates a case, fault = whether to add two bad candidates,
--            only = nil or a list of {operator, parameters, bucket, schedule, settings}: these are all candidates there are,
--            known = nil or such a list: what is in use so far, the incumbents}
function tune_collect(given)
  cases, by_key, options = {}, {}, given
  on_choice = function(sch, p, bucket)
    if not operators[sch.op].tune or not next(sch.settings) then return end
    local key = ("%s %s @%d"):format(sch.op, parameters_text(p), bucket)
    if not by_key[key] then
      by_key[key] = { sch = sch, spec = operators[sch.op], p = p, bucket = bucket, calls = 0 }
      cases[#cases + 1] = by_key[key]
    end
    by_key[key].calls = by_key[key].calls + 1
  end
end

-- ---- workloads ------------------------------------------------------------------------------------------------------

local function is_cold(d)
  if d.access ~= "in" then return false end
  for i, e in ipairs(d.dims) do
    if math.type(e) ~= "integer" and not (i == 1 and e == "kv_pages") then return false end
  end
  return true
end

-- What cost and measurement need of a call.
local function describe_workload(c, record, w)
  local bytes, data, cold, typical, read = {}, {}, {}, {}, 0
  for i, d in ipairs(record.args) do
    bytes[i], cold[i] = blade.bytes(d, w.sizes), is_cold(d)
    typical[i] = w.typical and w.typical[d.name] or 0
    read = read + (cold[i] and bytes[i] or 0)
    local contents = w.data and w.data[d.name]
    if contents then
      data[d.name] = { list = true }
      for n = 1, bytes[i] // bytes_of(d.elem) do data[d.name][n] = contents(n - 1) end
    end
  end
  return { name = w.name, sizes = w.sizes, bytes = bytes, data = data, read = read,
           operations = c.spec.tune.operations(c.p, w.sizes, w.data), cost = { cold = cold, typical = typical, threads = options.threads } }
end

-- ---- candidates -----------------------------------------------------------------------------------------------------

local function same(a, b) return canonical(a) == canonical(b) end

-- The IR of a kernel but for its name: two settings may mean the same code.
local function code_of(record) return (record.kernel:text():gsub("^[^\n]*\n", "")) end

-- Geometric mean over the workloads.
local function predict(record, workloads)
  local sum = 0
  for _, w in ipairs(workloads) do sum = sum + math.log(blade.cost(record.kernel, w.sizes, w.cost)) end
  return math.exp(sum / #workloads)
end

local function try(c, s)
  local ok, record = pcall(build_exactly, c.sch, c.p, s)
  return ok and record or nil
end

-- The settings that such a list names for a case; nil when it names none.
local function listed(list, c)
  for _, o in ipairs(list or {}) do
    if o.operator == c.sch.op and o.parameters == parameters_text(c.p) and o.bucket == c.bucket and o.schedule == c.sch.tag then
      return o.settings
    end
  end
end

-- All sensible settings with their predicted seconds, the default first, then the cheapest first. Ties go to what
-- changes least from the default, so that a choice among equals is always the same.
local function ranked(c)
  local default = default_settings(c.sch, c.p, c.bucket)
  local list = {}
  for _, s in ipairs(checking.combinations(c.sch.settings)) do
    if same(s, default) or not c.sch.sensible or c.sch.sensible(c.p, s, c.bucket) then
      local record, changed = try(c, s), 0
      for name, value in pairs(s) do changed = changed + (same(value, default[name]) and 0 or 1) end
      if record and changed > 0 then
        list[#list + 1] = { s = s, record = record, changed = changed, predicted = predict(record, c.workloads), order = #list }
      end
    end
  end
  table.sort(list, function(a, b)
    if a.predicted ~= b.predicted then return a.predicted < b.predicted end
    if a.changed ~= b.changed then return a.changed < b.changed end
    return a.order < b.order
  end)
  c.combinations = #list + 1
  local first = assert(try(c, default), "the default settings of " .. c.sch.op .. " can't be built")
  table.insert(list, 1, { s = default, record = first, changed = 0, predicted = predict(first, c.workloads) })
  return list
end

-- The default, the incumbent, the most promising others, and a few from all over the rest, for what the model does not
-- see. No two of them are the same code.
local function choose(c)
  local list, chosen, seen, known = ranked(c), {}, {}, listed(options.known, c)
  local function take(candidate, most)
    local code = code_of(candidate.record)
    if seen[code] or #chosen >= most then return end
    seen[code] = true
    chosen[#chosen + 1] = candidate
  end
  local others = options.most // 5
  take(list[1], options.most)
  for _, candidate in ipairs(list) do
    candidate.incumbent = known and candidate.changed > 0 and same(candidate.s, known) or nil
    if candidate.incumbent then take(candidate, options.most) end
  end
  for _, candidate in ipairs(list) do take(candidate, options.most - others) end
  for i = 1, others do take(list[1 + (#list - 1) * i // (others + 1)], options.most) end
  for _, candidate in ipairs(list) do take(candidate, options.most) end
  return chosen
end

-- The default and, where there are any, the settings that were asked for.
local function chosen_only(c)
  local list = { { s = default_settings(c.sch, c.p, c.bucket), predicted = 1 } }
  local s = listed(options.only, c)
  if s then list[2] = { s = s, predicted = 1 } end
  for _, candidate in ipairs(list) do candidate.record = build_exactly(c.sch, c.p, candidate.s) end
  c.combinations = #list
  return list
end

-- For tests: what is stored is wrong by one percent, or by its last bit.
local faults = { wrong = 1.01, bit = 1 + 2^-23 }

local function build_faulty(c, p, s, fault)
  local plain, settings = Kernel.store, { fault = fault }
  for name, value in pairs(s) do settings[name] = value end
  Kernel.store = function(k, memory, at, value, more)
    if type(value) == "userdata" and value.elem == "f32" and value.cols > 1 then value = value * faults[fault] end
    return plain(k, memory, at, value, more)
  end
  local ok, record = pcall(build_exactly, c.sch, p, settings)
  Kernel.store = plain
  if not ok then error(record, 0) end
  return record, settings
end

local function add_faults(c, chosen)
  for _, fault in ipairs { "wrong", "bit" } do
    local record, s = build_faulty(c, c.p, chosen[1].s, fault)
    chosen[#chosen + 1] = { s = s, record = record, predicted = chosen[1].predicted, fault = fault }
  end
end

-- Chooses the candidates of case `number` (from 1); the numbers of the kernels to compile, as JSON.
function tune_prepare(number)
  local c = cases[number]
  local tune = c.spec.tune
  if not c.chosen then
    local any = build_exactly(c.sch, c.p, default_settings(c.sch, c.p, c.bucket))
    c.workloads = {}
    for i, w in ipairs(tune.workloads(c.p, c.bucket)) do c.workloads[i] = describe_workload(c, any, w) end
    c.chosen = options.only and chosen_only(c) or choose(c)
    if options.fault then add_faults(c, c.chosen) end
    c.small = tune.reduced(c.p)
    for _, candidate in ipairs(c.chosen) do
      candidate.small = candidate.fault and build_faulty(c, c.small.p, c.chosen[1].s, candidate.fault)
                        or build_exactly(c.sch, c.small.p, candidate.s)
    end
  end
  local kernels = { list = true }
  for _, candidate in ipairs(c.chosen) do
    kernels[#kernels + 1] = candidate.record.index
  end
  return json_encode(kernels)
end

-- The numbers of the case's kernels in small, which tune_verify runs.
function tune_reduced(number)
  local kernels = { list = true }
  for i, candidate in ipairs(cases[number].chosen) do kernels[i] = candidate.small.index end
  return json_encode(kernels)
end

-- ---- verification ---------------------------------------------------------------------------------------------------

local references, verdicts, limits = {}, {}, nil

-- given = {kernel = number, why = text}: it can't be compiled. GPUs have settings that need more registers than there are.
-- Candidates that it belongs to are rejected; what has no kernel borrows the default's, and will not be run.
function tune_failed(given)
  for i = #limits, 1, -1 do
    if limits[i].kernel == given.kernel then table.remove(limits, i) end
  end
  for _, c in ipairs(cases) do
    for i, candidate in ipairs(c.chosen or {}) do
      if candidate.record.index == given.kernel or candidate.small.index == given.kernel then
        if i == 1 then error(("the default of %s %s can't be built: %s"):format(c.sch.op, parameters_text(c.p), given.why), 0) end
        candidate.record, candidate.rejected = c.chosen[1].record, "can't be built: " .. given.why
      end
    end
  end
end

-- Inputs and reference of a reduced case, computed once.
local function reference_of(c, record)
  local key = c.sch.op .. canonical(c.small.p)
  if not references[key] then
    local inputs = checking.make_tensors(record, c.small, c.spec)
    local want = checking.copy_tensors(record, c.small, inputs)
    c.spec.reference(c.small.p, want, c.small.sizes)
    references[key] = { inputs = inputs, want = want }
  end
  return references[key]
end

-- Why the kernel is wrong; nil when it is not. The first one verified, a default, gives the bits for all others.
local function fault_of(c, record)
  local r = reference_of(c, record)
  local t, bits = checking.copy_tensors(record, c.small, r.inputs), {}
  checking.run_kernel(record, c.small, t)
  for _, d in ipairs(record.args) do
    if d.access ~= "in" then
      local err, where = checking.difference(t[d.name], r.want[d.name])
      local tolerance = checking.tolerance_of(c.spec, c.small.p, d.name)
      if not (err <= tolerance) then
        return ("wrong: %s%s, relative error %.2g, tolerance %.2g"):format(d.name, where, err, tolerance)
      end
      bits[d.name] = t[d.name]:bits()
    end
  end
  r.bits = r.bits or bits
  for name, text in pairs(r.bits) do
    if bits[name] ~= text then return "not bit-equal to the default: " .. name end
  end
end

-- Runs the reduced kernels of a case; what is wrong keeps its reason and will not be measured.
function tune_verify(number)
  local c = cases[number]
  for _, candidate in ipairs(c.chosen) do
    local label = candidate.small.label
    if not candidate.rejected and verdicts[label] == nil then
      local ok, why = pcall(fault_of, c, candidate.small)
      verdicts[label] = why or not ok and "the check failed" or false
    end
    candidate.rejected = candidate.rejected or verdicts[label] or nil
  end
  if c.chosen[1].rejected then
    error(("the default of %s %s is wrong (%s)"):format(c.sch.op, parameters_text(c.p), c.chosen[1].rejected), 0)
  end
end

-- ---- JSON -----------------------------------------------------------------------------------------------------------

local function case_fields(c)
  return { operator = c.sch.op, parameters = parameters_text(c.p), bucket = c.bucket, schedule = c.sch.tag, calls = c.calls }
end

-- The cases of the model, as JSON: what they are, not yet what to try.
function tune_cases()
  local list = { list = true }
  for i, c in ipairs(cases) do list[i] = case_fields(c) end
  return json_encode(list)
end

-- What tuned settings must name to be used for an operator's first schedule; for tests.
function schedule_tag(op) return schedules[op][1].tag end

local function describe_case(c, position)
  local fields, args = case_fields(c), { list = true }
  for i, d in ipairs(c.chosen[1].record.args) do
    args[i] = { name = d.name, type = d.elem, access = d.access, cold = is_cold(d) }
  end
  fields.args, fields.workloads, fields.candidates = args, { list = true }, { list = true }
  fields.combinations, fields.peak = c.combinations, c.spec.tune.peak(c.p)
  for i, w in ipairs(c.workloads) do
    fields.workloads[i] = { name = w.name, sizes = w.sizes, bytes = w.bytes, data = w.data, read = w.read, operations = w.operations }
  end
  for i, candidate in ipairs(c.chosen) do
    fields.candidates[i] = { kernel = position[candidate.record], settings = candidate.s, predicted = candidate.predicted,
                             rejected = candidate.rejected, incumbent = candidate.incumbent }
  end
  return fields
end

-- Kernels that measure the limits, built when first asked for; their numbers as JSON.
function tune_limits()
  limits = limits or { read_limit(), peak_limit("int8"), peak_limit("bf16"), peak_limit("f32") }
  local kernels = { list = true }
  for i, l in ipairs(limits) do kernels[i] = l.kernel end
  return json_encode(kernels)
end

-- The plan of a pack of candidates: given = {cases = numbers from 1, code = layout of kernels by number}.
function tune_json(given)
  local records, position, list = {}, {}, { list = true }
  local function add(record)
    if not position[record] then
      records[#records + 1] = record
      position[record] = #records - 1
    end
    return position[record]
  end
  local limit_list = { list = true }
  for i, l in ipairs(limits) do
    limit_list[i] = {}
    for key, value in pairs(l) do limit_list[i][key] = value end
    limit_list[i].kernel = add(kernel_list[l.kernel + 1])
  end
  for i, number in ipairs(given.cases) do
    for _, candidate in ipairs(cases[number].chosen) do add(candidate.record) end
    list[i] = describe_case(cases[number], position)
  end
  local fields = plan_fields(records, given.code)
  fields.cases, fields.limits, fields.steps = list, limit_list, { list = true, { max_tokens = 0, launches = { list = true } } }
  return json_encode(fields)
end
