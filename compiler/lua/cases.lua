-- cases.lua - the operators' test cases as data, for machines that have no generator (cases.c, tests/gpu): for every case
-- the kernels of all settings, the arguments before the run, and what the reference makes of them.
--
-- Called from C in this order: cases_prepare, (kernels are compiled,) cases_blob for each blob, cases_json. In the JSON:
--   "cases": [{ operator, parameters, sizes, kernels = [plan's number, the default's first], unbuilt = [{label, why, refused}],
--               args = [{ name, type, access, initial = blob, and of what is written: expected, mask = blob, tolerance }] }],
--   "blobs": [[offset, size] in the pack's code]
-- refused: a setting, not the default, that the gates of GPU code do not let through (gpu/gates.c): nobody can use it.
-- initial: what a kernel must write holds poison, so that what it forgets shows. mask: 1 at every element that counts
-- (padding does not); the others may come out as they like.

local cases, blobs, blob_numbers

local function blob(tensor)
  local bytes = tensor:bits()
  if not blob_numbers[bytes] then
    blobs[#blobs + 1] = bytes
    blob_numbers[bytes] = #blobs - 1
  end
  return blob_numbers[bytes]
end

-- A tensor as references see it, which remembers in `written` what they set.
local function watched(tensor, written)
  local w = {}
  function w.get(_, ...) return tensor:get(...) end
  function w.dims() return tensor:dims() end
  function w.set(_, value, ...)
    written:set(1, ...)
    tensor:set(value, ...)
  end
  function w.fill(_, fn)
    written:fill(function() return 1 end)
    tensor:fill(fn)
  end
  function w.bits() return tensor:bits() end
  function w.assign(_, bytes) -- of a whole panel, whose padding need not be written
    tensor:assign(bytes)
    written:fill(function(...) return tensor:get(...) ~= 0 and 1 or 0 end)
  end
  return w
end

local function poison(elem)
  if elem == "f32" or elem == "f16" or elem == "bf16" then return 0 / 0 end
  return 85
end

-- Poison where something must be written; zeros, which must stay, where not.
local function before_run(d, case, written)
  local t, bad = blade.tensor(d, case.sizes), poison(d.elem)
  t:fill(function(...) return written:get(...) ~= 0 and bad or 0 end)
  return t
end

local function ones(d, case)
  local t = blade.tensor(d, case.sizes)
  t:fill(function() return 1 end)
  return t
end

-- The arguments of a case, with the reference's results.
local function describe_args(record, case, spec)
  local t = checking.make_tensors(record, case, spec)
  local want, seen, written = checking.copy_tensors(record, case, t), {}, {}
  for _, d in ipairs(record.args) do
    written[d.name] = blade.tensor(d, case.sizes)
    seen[d.name] = d.access == "in" and want[d.name] or watched(want[d.name], written[d.name])
  end
  spec.reference(case.p, seen, case.sizes)
  local list = { list = true }
  for i, d in ipairs(record.args) do
    local a = { name = d.name, type = d.elem, access = d.access }
    a.initial = blob(d.access == "out" and before_run(d, case, written[d.name]) or t[d.name])
    if d.access ~= "in" then
      a.expected, a.mask = blob(want[d.name]), blob(ones(d, case))
      a.tolerance = checking.tolerance_of(spec, case.p, d.name) + 0.0
    end
    list[i] = a
  end
  return list
end

-- The default and every other sensible setting; in the quick tier each choice of each setting once.
local function settings_of(sch, case, quick)
  local tries = { {} }
  for _, s in ipairs(quick and checking.quick_settings(sch.settings) or checking.combinations(sch.settings)) do
    if quick or not sch.sensible or sch.sensible(case.p, s) then tries[#tries + 1] = s end
  end
  return tries
end

local function schedule_of(name, p)
  for _, sch in ipairs(schedules[name]) do
    if not sch.fits or sch.fits(p) then return sch end
  end
end

local function prepare_case(spec, case, quick)
  local c = { operator = spec.name, parameters = parameters_text(case.p), sizes = case.sizes, records = {},
              unbuilt = { list = true } }
  local seen = {}
  for _, s in ipairs(settings_of(schedule_of(spec.name, case.p), case, quick)) do
    local ok, record = pcall(build, spec.name, case.p, s)
    if not ok then
      c.unbuilt[#c.unbuilt + 1] = { label = spec.name .. " " .. canonical(case.p) .. " " .. canonical(s), why = tostring(record) }
    elseif not seen[record] then
      seen[record] = true
      c.records[#c.records + 1] = record
    end
  end
  if c.records[1] then c.args = describe_args(c.records[1], case, spec) end
  cases[#cases + 1] = c
end

-- The operators that a list with commas names; nil: all.
local function operator_names(text)
  local names = {}
  for name in (text or ""):gmatch("[^,]+") do
    if not operators[name] then error("unknown operator '" .. name .. "'; `bladegen list` names them", 0) end
    names[#names + 1] = name
  end
  for name in pairs(text and {} or operators) do names[#names + 1] = name end
  table.sort(names)
  return names
end

-- given = {operator = names with commas between, or nil, quick = bool}. Numbers of the kernels to compile and of blobs, as
-- JSON.
function cases_prepare(given)
  cases, blobs, blob_numbers = {}, {}, {}
  for _, name in ipairs(operator_names(given.operator)) do
    for _, case in ipairs(operators[name].cases) do
      if schedule_of(name, case.p) then prepare_case(operators[name], case, given.quick) end
    end
  end
  local kernels, wanted = { list = true }, {}
  for _, c in ipairs(cases) do
    for _, record in ipairs(c.records) do
      if not wanted[record] then kernels[#kernels + 1] = record.index end
      wanted[record] = true
    end
  end
  return json_encode { kernels = kernels, blobs = #blobs }
end

function cases_blob(number) return blobs[number + 1] end

-- A plan that has kernels and nothing to run.
function plain_plan(list, code)
  current_plan = current_plan or { model = { vocab = 1, context = 1 }, prefill_tile = 1, logits_stride = 1, peak = "f32" }
  local fields = plan_fields(list, code)
  fields.steps = { list = true, { max_tokens = 0, launches = { list = true } } }
  return fields
end

-- given = {code = layout of kernels by number, blobs = their [offset, size], failures = {kernel's number as text = why}}.
function cases_json(given)
  local list, position = {}, {}
  local described = { list = true }
  for i, c in ipairs(cases) do
    local kernels = { list = true }
    for _, record in ipairs(c.records) do
      local why = given.failures[tostring(record.index)]
      if why then
        local refused = record ~= c.records[1] and why:find("accepts = {", 1, true) ~= nil
        c.unbuilt[#c.unbuilt + 1] = { label = record.label, why = why, refused = refused }
      else
        if not position[record] then
          list[#list + 1] = record
          position[record] = #list - 1
        end
        kernels[#kernels + 1] = position[record]
      end
    end
    described[i] = { operator = c.operator, parameters = c.parameters, sizes = c.sizes, kernels = kernels, unbuilt = c.unbuilt,
                     args = c.args or { list = true } }
  end
  local fields = plain_plan(list, given.code)
  for _, b in ipairs(given.blobs) do b.list = true end
  given.blobs.list = true
  fields.cases, fields.blobs = described, given.blobs
  return json_encode(fields)
end
