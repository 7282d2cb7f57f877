-- lib.lua - the vocabulary of templates and schedules: operator, schedule, model; shapes and pitches; how a schedule is
-- chosen, traced and kept. Everything here is plain Lua over the builders of compiler/lua.c.

operators, schedules, models = {}, {}, {}

local function sorted_keys(t)
  local keys = {}
  for key in pairs(t) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  return keys
end

local function shortest(v)
  local text = ("%.9g"):format(v)
  return tonumber(text) == v and text or ("%.17g"):format(v)
end

-- A value as text with sorted keys: identity of parameters and settings.
function canonical(v)
  if type(v) ~= "table" then
    return math.type(v) == "float" and shortest(v) or tostring(v)
  end
  local parts = {}
  for _, key in ipairs(sorted_keys(v)) do
    parts[#parts + 1] = (math.type(key) and "" or key .. "=") .. canonical(v[key])
  end
  return "{" .. table.concat(parts, ",") .. "}"
end

-- One list of all elements of several.
function concat_lists(...)
  local all = {}
  for _, list in ipairs { ... } do
    for _, item in ipairs(list) do all[#all + 1] = item end
  end
  return all
end

function ceil_div(a, b) return (a + b - 1) // b end
function round_up(a, b) return ceil_div(a, b) * b end

local element_bytes = { f32 = 4, s32 = 4, u32 = 4, f16 = 2, bf16 = 2, s16 = 2, u16 = 2, s8 = 1, u8 = 1, s64 = 8 }
function bytes_of(elem) return element_bytes[elem] or error("no size for element type " .. tostring(elem)) end

-- Elements from row to row of an activation of n columns: an odd number of cache lines, so that rows of a tile fall
-- into different cache sets however large a power of two n is.
function row_pitch(n, elem)
  local lines = ceil_div(n * bytes_of(elem), 64)
  return (lines | 1) * 64 // bytes_of(elem)
end

-- An activation [rows, n]: padded to whole vectors, odd pitch.
function activation(name, rows, n, elem, access)
  n = round_up(n, 16)
  return { name = name, elem = elem, dims = { rows, n }, pitch = row_pitch(n, elem), access = access or "in" }
end

function argument(name, elem, dims, access, more)
  local d = { name = name, elem = elem, dims = dims, access = access or "in" }
  for key, value in pairs(more or {}) do d[key] = value end
  return d
end

-- operator "name" { doc, args = function(p) -> list of declarations, numerics = function(p),
--                   reference = function(p, t, sizes),
--                   cases = { {p = ..., sizes = ...} }, tolerance, inputs = function(p, t, sizes, random),
--                   tune = what the tuner needs to know (tune.lua) }
function operator(name)
  return function(spec)
    for _, field in ipairs { "doc", "args", "reference", "cases" } do
      if spec[field] == nil then error("operator '" .. name .. "' lacks '" .. field .. "'", 2) end
    end
    if operators[name] then error("operator '" .. name .. "' is defined twice", 2) end
    spec.name = name
    operators[name], schedules[name] = spec, {}
    return spec
  end
end

-- schedule "operator" { name, settings = {setting = {choices}}, default = function(p, bucket) -> settings,
--                       fits = function(p), sensible = function(p, s, bucket): false for settings that are valid but
--                       a waste of time to check (bucket nil) or to try in calls of a bucket } (body)
-- body(k, a, p, s): kernel, arguments by name, parameters, settings.
-- Besides, for GPUs: accepts = {"spills", "stack", "notes"} (compiler/gpu/gates.c); and instead of a body (that is nil)
-- external = {file =, threads =, tiles = {extents as for k:tiles}, shared = function(p), defines = function(p)}: a
-- source body for the vendor's compiler. Where that can't be had, the kernel is what the next schedule makes of it.
function schedule(op)
  if not operators[op] then error("schedule for an unknown operator '" .. tostring(op) .. "'", 2) end
  return function(declaration)
    return function(body)
      declaration.body, declaration.op = body, op
      declaration.name = declaration.name or "default"
      declaration.settings = declaration.settings or {}
      declaration.tag = declaration.name .. "@" .. source_hash -- what tuned settings were tuned for
      if target.gpu and not own_schedules then -- a host's that serves a GPU: its settings mean nothing there
        declaration.sensible = function() return false end
      end
      local list = schedules[op]
      if own_schedules then list.own = (list.own or 0) + 1 end -- before the host's
      declaration.own = own_schedules
      table.insert(list, body == nil and 1 or own_schedules and list.own or #list + 1, declaration)
      return declaration
    end
  end
end

function model(declaration)
  for _, name in ipairs(declaration.architectures) do models[name] = declaration end
  return declaration
end

local function pick_schedule(op, p, with_body)
  local all = schedules[op] or error("unknown operator '" .. tostring(op) .. "'; `bladegen list` names them", 0)
  for _, s in ipairs(all) do
    if (s.body or not with_body) and (not s.fits or s.fits(p)) then return s end
  end
  error("no schedule of '" .. op .. "' for the target " .. target.name .. " takes " .. canonical(p), 0)
end

-- Settings: the schedule's defaults, overridden by what is given; names and kinds are checked.
local function complete_settings(sch, p, given, bucket)
  local s = sch.default and sch.default(p, bucket) or {}
  for name, choices in pairs(sch.settings) do
    if s[name] == nil then s[name] = choices[1] end
  end
  for name, value in pairs(given or {}) do
    if sch.settings[name] == nil then
      local known = table.concat(sorted_keys(sch.settings), ", ")
      error(("schedule '%s' of %s has no setting '%s'; it has: %s"):format(sch.name, sch.op, name, known), 0)
    end
    if type(value) ~= type(s[name]) then
      error(("setting '%s' of %s must be a %s"):format(name, sch.op, type(s[name])), 0)
    end
    s[name] = value
  end
  return s
end

-- "matmul k=64,n=64,w=f32 cols=2,rows=12"
local function label_of(op, p, s)
  local text = op .. " " .. canonical(p):sub(2, -2) .. " " .. canonical(s):sub(2, -2)
  return (text:gsub(" $", ""))
end

-- ---- tuned settings (compiler/tuned.h) ------------------------------------------------------------------------------

local tuned, tuned_unused = {}, {}

-- Parameters as text, as tuned settings name them: "k=64,n=64,w=f32".
function parameters_text(p) return canonical(p):sub(2, -2) end

local function tuned_key(op, parameters, bucket) return ("%s %s @%d"):format(op, parameters, bucket) end

-- Called from C with the entries of the files, those that count most last.
function use_tuned(entries)
  for _, e in ipairs(entries) do
    local key = tuned_key(e.operator, e.parameters, e.bucket or 0)
    tuned[key] = tuned[key] or {}
    table.insert(tuned[key], 1, e)
  end
end

-- Shipped entries fall silent when their schedule moves on; the user's own are worth a word.
local function not_used(e, why)
  if e.told or e.shipped then return end
  e.told = true
  local line = ("%s: %s of %s"):format(e.file, why, e.operator)
  tuned_unused[line] = (tuned_unused[line] or 0) + 1
end

local function is_choice(choices, value)
  for _, choice in ipairs(choices or {}) do
    local alike = type(choice) == type(value) and math.type(choice) == math.type(value)
    if alike and canonical(choice) == canonical(value) then return true end
  end
  return false
end

-- Why an entry can't be used; nil when it can.
local function tuned_fault(sch, e)
  if e.schedule ~= sch.tag then return "the schedule has changed since the tuning" end
  for name, value in pairs(e.settings) do
    if not sch.settings[name] then return ("unknown setting '%s'"):format(name) end
    if not is_choice(sch.settings[name], value) then return ("setting '%s' can't be %s"):format(name, canonical(value)) end
  end
end

-- The settings of the first entry that applies, or nil.
local function tuned_settings(sch, p, bucket)
  for _, e in ipairs(tuned[tuned_key(sch.op, parameters_text(p), bucket or 0)] or {}) do
    local why = tuned_fault(sch, e)
    if not why then return e.settings, e end
    not_used(e, why)
  end
end

-- Called from C after planning: what was wrong with entries that would have applied, a line a reason.
function tuned_warnings()
  local lines = {}
  for _, line in ipairs(sorted_keys(tuned_unused)) do
    lines[#lines + 1] = ("%s (%d entries): defaults are used instead; run bladetune again\n"):format(line, tuned_unused[line])
  end
  return table.concat(lines)
end

-- ---- tracing --------------------------------------------------------------------------------------------------------

kernel_cache, kernel_list = {}, {}
local grid_of = setmetatable({}, { __mode = "k" })

-- An extent of a grid: a number, a size name, or {n =, size =, div =} for ceil(n * size / div).
local function extent_of(e)
  if type(e) ~= "table" then e = type(e) == "string" and { size = e } or { n = e } end
  return { n = e.n or 1, size = e.size, div = e.div or 1 }
end

-- The source body, and beside it the instructions of a schedule with the same grid.
local function trace_external(k, a, sch, p)
  local e, generated = sch.external, pick_schedule(sch.op, p, true)
  generated.body(k, a, p, complete_settings(generated, p))
  local tiles = {}
  for i, extent in ipairs(e.tiles) do tiles[i] = extent_of(extent) end
  if canonical(tiles) ~= canonical(grid_of[k]) then
    error(("schedules '%s' and '%s' of %s differ in their grids"):format(sch.name, generated.name, sch.op), 0)
  end
  local defines = {}
  for name, value in pairs(e.defines(p)) do defines[#defines + 1] = name .. "=" .. canonical(value) end
  table.sort(defines)
  k:external { file = e.file, threads = e.threads, shared = e.shared(p), defines = table.concat(defines, " ") }
end

local function trace(op, sch, p, s)
  local key = label_of(op, p, s)
  if kernel_cache[key] then return kernel_cache[key] end
  local spec = operators[op]
  local k = blade.kernel(key)
  if spec.numerics then k:numerics(spec.numerics(p)) end
  local declarations, a = spec.args(p), {}
  for i, d in ipairs(declarations) do a[d.name] = k:arg(i - 1, d.name, d) end
  if sch.accepts then k:accepts(sch.accepts) end
  if sch.external then trace_external(k, a, sch, p) else sch.body(k, a, p, s) end
  if not grid_of[k] then error("schedule '" .. sch.name .. "' of " .. op .. " calls no k:tiles", 0) end
  local record = { index = k:finish(), op = op, label = key, args = declarations, grid = grid_of[k], kernel = k, p = p, s = s }
  kernel_cache[key] = record
  kernel_list[record.index + 1] = record
  return record
end

-- For the tuner: a kernel with these settings, all of them; what the settings are where none are given.
function build_exactly(sch, p, s) return trace(sch.op, sch, p, s) end
function default_settings(sch, p, bucket) return complete_settings(sch, p, nil, bucket) end

-- Called by build when settings are left to it, for the tuner (tune.lua): on_choice(sch, p, bucket).
on_choice = nil

-- Traces operator `op`; returns the kernel's record {index, label, args, grid, kernel}. Equal requests are traced once.
-- `bucket`: most rows it will be called with (0 or nil: any), for the settings only, which are the tuned or default
-- ones where they are not given.
function build(op, p, given, bucket)
  local sch = pick_schedule(op, p)
  if given then return trace(op, sch, p, complete_settings(sch, p, given, bucket)) end
  if on_choice then on_choice(sch, p, bucket or 0) end
  local settings, entry = tuned_settings(sch, p, bucket)
  if settings then
    local ok, record = pcall(trace, op, sch, p, complete_settings(sch, p, settings, bucket))
    if ok then return record end
    not_used(entry, "the tuned settings can't be built (" .. tostring(record) .. ")")
  end
  return trace(op, sch, p, complete_settings(sch, p, nil, bucket))
end

-- ---- methods of kernels that need no C ------------------------------------------------------------------------------

-- k:tiles(extent, ...): the grid (extent_of).
function Kernel.tiles(k, ...)
  local extents, plan = {}, {}
  for i, extent in ipairs { ... } do
    local e = extent_of(extent)
    if e.size then
      local v = k:size(e.size) * e.n
      extents[i] = e.div > 1 and (v + (e.div - 1)) // e.div or v
    else
      extents[i] = ceil_div(e.n, e.div)
    end
    plan[i] = e
  end
  k:grid(table.unpack(extents))
  grid_of[k] = plan
end

-- k:peel(count, {12, 4, 1}, fn): covers 0..count-1 in pieces, as many of the first size as fit, then of the next;
-- fn(first, size). The last size must be 1, so that nothing is left over.
function Kernel.peel(k, count, sizes, fn)
  if sizes[#sizes] ~= 1 then error("peel: the last piece must be 1", 2) end
  local done = k:const("s64", 0)
  for i, size in ipairs(sizes) do
    local last = count
    if size > 1 then last = done + (count - done) // size * size end
    k:range(done, last, size, function(at) fn(at, size) end)
    done = last
  end
end

-- Sizes for k:peel: as many of `most` as fit, the rest in one or two smaller ones.
function falling_sizes(most)
  local list = { most }
  for _, size in ipairs { 8, 4, 3, 2, 1 } do
    if size < most then list[#list + 1] = size end
  end
  return list
end

-- The largest power of two up to `most` that divides n.
function power_of_two_divisor(n, most)
  local d = 1
  while d * 2 <= most and n % (d * 2) == 0 do d = d * 2 end
  return d
end

function power_of_two_up(n)
  local d = 1
  while d < n do d = 2 * d end
  return d
end

-- Calls fn(first, count) over n columns in tiles that exist: whole vectors first, then what is left (fewer than 16).
function each_columns(n, fn)
  local whole = n // 16 * 16
  if whole > 0 then fn(0, whole) end
  if n > whole then fn(whole, n - whole) end
end

function Kernel.pipelined(k, lo, hi, step, options, fn) k:range(lo, hi, step, fn, options.stages) end

-- ---- shorthands on values -------------------------------------------------------------------------------------------

function Value.sum(v) return v:reduce("add", "cols", v.cols) end      -- the tree's width is the tile's
function Value.highest(v) return v:reduce("max", "cols") end
function Value.silu(v) return v / ((-v):exp() + 1.0) end
function Value.f32(v) return v:cast("f32") end

-- Before a schedule is tried from text: the operator's own are dropped, and its kernels.
function forget_schedules(op)
  schedules[op], kernel_cache, kernel_list = {}, {}, {}
end

-- ---- for the command line -------------------------------------------------------------------------------------------

function list_operators()
  local lines = {}
  for _, name in ipairs(sorted_keys(operators)) do
    for _, s in ipairs(schedules[name]) do
      local settings = {}
      for _, set in ipairs(sorted_keys(s.settings)) do
        local choices = {}
        for i, c in ipairs(s.settings[set]) do choices[i] = type(c) == "table" and canonical(c) or tostring(c) end
        settings[#settings + 1] = set .. "=" .. table.concat(choices, "|")
      end
      local how = s.external and s.external.file or s.own and "" or target.gpu and "as on the host" or ""
      lines[#lines + 1] = ("%-18s %-7s %-8s %-30s %s"):format(name, target.family, s.name, how, table.concat(settings, " ")):gsub(" +$", "")
    end
  end
  return table.concat(lines, "\n") .. "\n"
end

local function parse_setting(text)
  local name, value = text:match("^([%w_]+)=(.*)$")
  if not name then error("--set wants NAME=VALUE, got '" .. text .. "'", 0) end
  if value:find(",", 1, true) then
    local list = {}
    for item in value:gmatch("[^,]+") do
      list[#list + 1] = math.tointeger(tonumber(item)) or error("--set " .. name .. ": '" .. item .. "' is not an integer", 0)
    end
    return name, list
  end
  if value == "true" or value == "false" then return name, value == "true" end
  local number = tonumber(value)
  return name, number and (math.tointeger(number) or number) or value
end

-- Parameters and settings share --set: a name that the first test case has is a parameter, any other a setting.
function show_operator(name, set)
  local spec = operators[name] or error("unknown operator '" .. name .. "'; `bladegen list` names them", 0)
  local p, given = {}, {}
  for key, value in pairs(spec.cases[1].p) do p[key] = value end
  for _, text in ipairs(set) do
    local key, value = parse_setting(text)
    local is_parameter = p[key] ~= nil
    for _, case in ipairs(spec.cases) do is_parameter = is_parameter or case.p[key] ~= nil end
    if is_parameter then p[key] = value else
      given[key] = value
    end
  end
  local sch = pick_schedule(name, p)
  for key, value in pairs(given) do
    local choices = sch.settings[key]
    if choices and type(choices[1]) == "table" and type(value) ~= "table" then given[key] = { value } end
  end
  local record = build(name, p, given)
  local doc = { name .. ": " .. spec.doc, "parameters: " .. canonical(p), "settings:   " .. canonical(record.s), "arguments:" }
  for _, d in ipairs(record.args) do
    doc[#doc + 1] = ("  %-5s %-5s %s%s"):format(d.access, d.elem, d.name, canonical(d.dims))
  end
  return record.index, table.concat(doc, "\n") .. "\n"
end
