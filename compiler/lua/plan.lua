-- plan.lua - the plan of a pack: buffers, weight loading, launches per bucket of token count; and its JSON. graph.lua
-- fills it.
Plan = {}
Plan.__index = Plan

-- A step is planned once for each of these token counts (at most so many tokens; 0: any).
plan_buckets = { 1, 4, 8, 32, 0 }
page_tokens = 32        -- tokens of a KV page
attention_segment = 512 -- positions whose softmax is merged in order (numerics contract)

function new_plan()
  local plan = setmetatable({ buffers = {}, loads = {}, steps = {}, sample = {}, limits = {}, inputs = {}, free = {}, model = {},
                              flops = 0, output_flops = 0, weight_bytes = 0 }, Plan)
  for i, tokens in ipairs(plan_buckets) do plan.steps[i] = { max_tokens = tokens, launches = {} } end
  return plan
end

-- buffer { name, kind, bytes = n or {{n =, size =}, ...}, fill, ... } -> id
function Plan:buffer(b)
  if math.type(b.bytes) then b.bytes = { { n = math.tointeger(b.bytes) } } end
  self.buffers[#self.buffers + 1] = b
  return #self.buffers - 1
end

-- Inputs and outputs that the runtime knows by name.
function Plan:io(name, kind)
  if not self.inputs[name] then self.inputs[name] = self:buffer { name = name, kind = kind } end
  return self.inputs[name]
end
function Plan:input(name) return self:io(name, "input") end
function Plan:output(name) return self:io(name, "output") end

function Plan:constant(name, values)
  return self:buffer { name = name, kind = "constant", bytes = 4 * #values, data_type = "f32", data = values }
end

-- Bytes of a declared argument whose extents may hold one size.
local function declared_bytes(d)
  local n, size = 1, nil
  for i, e in ipairs(d.dims) do
    if type(e) == "string" then e = { 1, e } end
    if type(e) == "table" then
      n, size = n * e[1], e[2]
    else
      n = n * (i == #d.dims and d.pitch or e)
    end
  end
  return { { n = n * bytes_of(d.elem), size = size } }
end

-- An activation for declaration `d`, from those that are free if one fits; Plan:release gives it back.
function Plan:activation(d)
  local shape = d.elem .. canonical(d.dims) .. (d.pitch or "")
  local list = self.free[shape]
  if list and #list > 0 then return table.remove(list) end
  return self:buffer { name = d.name .. " " .. shape, kind = "activation", bytes = declared_bytes(d), shape = shape }
end

function Plan:release(id)
  local shape = self.buffers[id + 1].shape
  if not shape then return end
  self.free[shape] = self.free[shape] or {}
  table.insert(self.free[shape], id)
end

-- Appends a launch. `where`: "step" (every bucket: kernel(bucket) gives the record) or "sample".
function Plan:launch(where, record, args)
  if where == "sample" then
    self.sample[#self.sample + 1] = { kernel = record.index, args = args }
    return
  end
  for _, step in ipairs(self.steps) do
    self:launch_at(step, type(record) == "function" and record(step.max_tokens) or record, args)
  end
end

function Plan:launch_at(step, record, args) step.launches[#step.launches + 1] = { kernel = record.index, args = args } end

function Plan:load(record, args, sizes)
  self.loads[#self.loads + 1] = { kernel = record.index, args = args, sizes = sizes or {} }
end

function Plan:builtin(name, ...)
  self.loads[#self.loads + 1] = { builtin = name, args = { ... } }
end

-- ---- JSON -----------------------------------------------------------------------------------------------------------

local escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function encode_string(s)
  return '"' .. s:gsub('[%c"\\]', function(c) return escapes[c] or ("\\u%04x"):format(c:byte()) end) .. '"'
end

-- Tables with a first element, or marked as lists, become arrays; others objects with sorted keys.
function json_encode(v)
  if v == nil then return "null" end
  if type(v) == "string" then return encode_string(v) end
  if type(v) == "number" then return math.type(v) == "float" and ("%.9g"):format(v) or tostring(v) end
  if type(v) ~= "table" then return tostring(v) end
  local parts = {}
  if v[1] ~= nil or v.list then
    for i, item in ipairs(v) do parts[i] = json_encode(item) end
    return "[" .. table.concat(parts, ",") .. "]"
  end
  local keys = {}
  for key in pairs(v) do keys[#keys + 1] = key end
  table.sort(keys)
  for i, key in ipairs(keys) do parts[i] = encode_string(key) .. ":" .. json_encode(v[key]) end
  return "{" .. table.concat(parts, ",") .. "}"
end

local function as_list(t)
  t.list = true
  return t
end

-- `code` gives the layout of a kernel's object by its number.
local function kernel_entries(records, code)
  local list = as_list {}
  for i, record in ipairs(records) do
    local c = code[record.index + 1]
    local function figure(value) return c.registers > 0 and value or nil end -- for people who inspect a pack
    list[i] = { name = record.label, symbol = "kernel", offset = c.offset, size = c.size, scratch = c.scratch,
                threads = c.threads > 0 and c.threads or nil, shared = c.threads > 0 and c.shared or nil, grid = record.grid,
                registers = figure(c.registers), spills = figure(c.spills), stack = figure(c.stack),
                occupancy = figure(c.occupancy) }
  end
  return list
end

-- What every plan has, for these kernels.
function plan_fields(records, code)
  local plan = current_plan
  return { format = 2, model = plan.model, page_tokens = page_tokens, prefill_tile = plan.prefill_tile, logits_stride = plan.logits_stride,
           hidden_stride = plan.hidden_stride, peak = plan.peak, kernels = kernel_entries(records, code) }
end

local function buffer_entries(plan)
  local list = as_list {}
  for i, b in ipairs(plan.buffers) do
    b.shape = nil
    list[i] = b
  end
  return list
end

local function with_lists(launches)
  for _, l in ipairs(launches) do as_list(l.args) end
  return as_list(launches)
end

-- Called from C with the code layout of every kernel, in the order of their numbers.
function plan_json(code)
  local plan = current_plan
  for _, step in ipairs(plan.steps) do with_lists(step.launches) end
  local fields = plan_fields(kernel_list, code)
  fields.flops_per_token, fields.flops_per_output, fields.weight_bytes_per_step = plan.flops, plan.output_flops, plan.weight_bytes
  fields.buffers, fields.load, fields.limits = buffer_entries(plan), with_lists(plan.loads), as_list(plan.limits)
  fields.steps, fields.sample = as_list(plan.steps), with_lists(plan.sample)
  return json_encode(fields)
end

-- Called from C: facts = {config, tensors, weights, random}.
function plan_model(facts)
  local architectures = facts.config.architectures or {}
  local architecture = architectures[1] or "(none)"
  local description = models[architecture]
  if not description then
    local known = {}
    for name in pairs(models) do known[#known + 1] = name end
    table.sort(known)
    error(("architecture %s is not supported; supported: %s"):format(architecture, table.concat(known, ", ")), 0)
  end
  local formats = facts.weights -- "w4", or "w4+kv-int8": of the weights, and of the KV cache
  facts.weights, facts.kv = formats:match("^([^+]*)%+kv%-(.*)$")
  facts.weights = facts.weights or formats
  current_plan = new_plan()
  local m = new_graph(current_plan, facts)
  m:describe { architecture = architecture, weights = formats }
  description.build(m, facts.config, architecture)
  m:finish()
end
