-- stored.lua - how a checkpoint stores each linear layer: by config.json and by the tensors that layer `name` has.
-- Shapes and types are checked here; messages name the tensor, what it is, and what is needed. No data is read.
--
--   dense    name.weight in f32, f16 or bf16
--   gptq     name.qweight, .qzeros, .scales [, .g_idx]          4 or 8 bits, checkpoint_format "gptq" or "gptq_v2"
--   awq      name.qweight, .qzeros, .scales                     4 bits, version "gemm"
--   packed   name.weight_packed, .weight_scale [, .weight_zero_point] [, .weight_g_idx]
--            compressed-tensors "pack-quantized", 4 or 8 bits
--   int8     name.weight in s8, name.weight_scale               compressed-tensors "int-quantized"
--
-- A layer without quantized tensors is dense, whatever config.json lists as ignored. Scales of activations are not
-- read: activations are quantized per token as they come.

function refuse(format, ...) error(format:format(...), 0) end

function one_of(value, list)
  for _, item in ipairs(list) do
    if value == item then return true end
  end
  return false
end

float_types = { "f32", "f16", "bf16" }

-- ---- tensors --------------------------------------------------------------------------------------------------------

local function shape_text(shape) return "[" .. table.concat(shape, ", ") .. "]" end

-- The tensor's load argument; its type must be one of `types`, its shape `shape`.
function checked_tensor(facts, name, types, shape)
  local t = facts.tensors[name]
  if not t then
    refuse("the checkpoint has no tensor %s; %s %s is needed", name, table.concat(types, " or "), shape_text(shape))
  end
  if not one_of(t.dtype, types) then
    local supported = table.concat(types, ", ")
    refuse("tensor %s is stored as %s, which is not supported here; supported: %s", name, t.dtype, supported)
  end
  if shape_text(t.shape) ~= shape_text(shape) then
    refuse("tensor %s has shape %s, but config.json asks for %s", name, shape_text(t.shape), shape_text(shape))
  end
  return { tensor = name, dtype = t.dtype, shape = t.shape }
end

-- Extent `d` of a tensor that is needed, whatever its size.
local function extent(facts, name, d)
  local t = facts.tensors[name] or refuse("the checkpoint has no tensor %s, which belongs to a quantized layer", name)
  return t.shape[d] or refuse("tensor %s has shape %s; %d dimensions are needed", name, shape_text(t.shape), d)
end

local config_types = { float32 = "f32", float16 = "f16", bfloat16 = "bf16" }

-- The type that the model says it is computed in, else that of its first tensor of floats.
function main_type(facts)
  local name = facts.config.torch_dtype or facts.config.dtype
  if name == nil then
    local first
    for key, t in pairs(facts.tensors) do
      if one_of(t.dtype, float_types) and (not first or key < first) then first = key end
    end
    return first and facts.tensors[first].dtype or "f32"
  end
  return config_types[name] or
    refuse('config.json: torch_dtype "%s" is not supported; supported: float32, float16, bfloat16', tostring(name))
end

-- ---- config.json's quantization_config ------------------------------------------------------------------------------

local methods = "gptq, awq, compressed-tensors"

local function need(q, key, value, supported)
  if not one_of(value, supported) then
    for i, v in ipairs(supported) do supported[i] = tostring(v) end
    refuse('config.json: quantization_config of %s has "%s": %s; supported: %s', q.method, key, tostring(value),
      table.concat(supported, ", "))
  end
end

-- The object `key` of configuration `c`; empty when it is missing.
local function table_of(c, key)
  local t = type(c) == "table" and c[key]
  return type(t) == "table" and t or {}
end

local checks = {
  gptq = function(q, c)
    need(q, "bits", c.bits, { 4, 8 })
    need(q, "checkpoint_format", c.checkpoint_format or "gptq", { "gptq", "gptq_v2" })
    need(q, "pack_dtype", c.pack_dtype or "int32", { "int32" })
    q.add_zero = c.checkpoint_format == "gptq_v2" and 0 or 1
    q.symmetric = c.sym == true and not c.dynamic
    q.group_size, q.perm = c.group_size, c.desc_act == true
  end,
  awq = function(q, c)
    need(q, "bits", c.bits or c.w_bit, { 4 })
    need(q, "version", tostring(c.version or "gemm"):lower(), { "gemm" })
    q.group_size = c.group_size or c.q_group_size
  end,
  ["compressed-tensors"] = function(q, c)
    need(q, "format", c.format, { "pack-quantized", "int-quantized", "dense" })
    q.symmetric = true
    for _, group in pairs(table_of(c, "config_groups")) do
      local w = table_of(group, "weights")
      need(q, "type", w.type or "int", { "int" })
      q.symmetric = q.symmetric and w.symmetric ~= false
      q.group_size = w.group_size
    end
  end,
}

-- {method, symmetric, group_size, ...}, or nil when the checkpoint is not quantized.
function quantization(facts)
  local c = facts.config.quantization_config
  if c == nil then return nil end
  if type(c) ~= "table" then refuse("config.json: quantization_config is not an object") end
  local q = { method = c.quant_method or c.bits and "gptq" or "(none)" }
  local check = checks[q.method] or
    refuse('config.json: quant_method "%s" is not supported; supported: %s', tostring(q.method), methods)
  check(q, c)
  return q
end

-- ---- layers ---------------------------------------------------------------------------------------------------------
-- A layer is {name, n = outputs, k = inputs}; readers return how it is stored: {op = packing operator, sources = its
-- load arguments, w = format of the panel, from = type of scales (or of dense weights), group, zeros, add_zero, dense,
-- perm = load argument of the group indices of inputs in scattered groups}.

local function finish_groups(q, s, l, groups)
  local size = q.group_size
  if groups == 1 then
    s.group, s.perm = round_up(l.k, 16), nil
  elseif math.type(size) == "integer" and size > 0 and ceil_div(l.k, size) == groups then
    s.group = size
  else
    s.group = groups > 0 and l.k % groups == 0 and l.k // groups or 0
  end
  if s.group < 16 or s.group % 16 ~= 0 then
    refuse("%s: %d groups over %d inputs; the group size must be a multiple of 16", l.name, groups, l.k)
  end
  return s
end

-- Bits of an element when `count` words hold k of them.
local function bits_of(l, part, count)
  for _, bits in ipairs { 4, 8 } do
    if count == ceil_div(l.k * bits, 32) then return bits end
  end
  refuse("tensor %s.%s holds %d words for %d inputs; 4 and 8 bits are supported", l.name, part, count, l.k)
end

local function multiple(l, what, n, of)
  if n % of ~= 0 then refuse("%s: %d %s; packed weights need a multiple of %d", l.name, n, what, of) end
end

local readers = {}

function readers.gptq(facts, q, l)
  local function of(part, types, ...) return checked_tensor(facts, l.name .. "." .. part, types, { ... }) end
  local bits = bits_of(l, "qweight", extent(facts, l.name .. ".qweight", 1))
  local groups = extent(facts, l.name .. ".scales", 1)
  multiple(l, "inputs", l.k, 32 // bits)
  local scales = of("scales", float_types, groups, l.n)
  local s = { op = "pack_gptq", w = bits == 4 and "w4" or "w8", zeros = not q.symmetric or nil, from = scales.dtype,
              add_zero = not q.symmetric and q.add_zero or nil }
  s.sources = { of("qweight", { "s32" }, l.k * bits // 32, l.n) }
  if s.zeros then s.sources[2] = of("qzeros", { "s32" }, groups, ceil_div(l.n * bits, 32)) end
  s.sources[#s.sources + 1] = scales
  s.perm = q.perm and of("g_idx", { "s32" }, l.k) or nil
  return finish_groups(q, s, l, groups)
end

function readers.awq(facts, q, l)
  local function of(part, types, ...) return checked_tensor(facts, l.name .. "." .. part, types, { ... }) end
  local groups = extent(facts, l.name .. ".scales", 1)
  multiple(l, "outputs", l.n, 8)
  local scales = of("scales", float_types, groups, l.n)
  local sources = { of("qweight", { "s32" }, l.k, l.n // 8), of("qzeros", { "s32" }, groups, l.n // 8), scales }
  local s = { op = "pack_awq", w = "w4", zeros = true, from = scales.dtype, sources = sources }
  return finish_groups(q, s, l, groups)
end

function readers.packed(facts, q, l)
  local function of(part, types, ...) return checked_tensor(facts, l.name .. "." .. part, types, { ... }) end
  local words, groups = extent(facts, l.name .. ".weight_packed", 2), extent(facts, l.name .. ".weight_scale", 2)
  local bits = bits_of(l, "weight_packed", words)
  local scales = of("weight_scale", float_types, l.n, groups)
  local s = { op = "pack_compressed", w = bits == 4 and "w4" or "w8", zeros = not q.symmetric or nil,
              from = scales.dtype }
  s.sources = { of("weight_packed", { "s32" }, l.n, words) }
  if s.zeros then s.sources[2] = of("weight_zero_point", { "s32" }, ceil_div(l.n * bits, 32), groups) end
  s.sources[#s.sources + 1] = scales
  s.perm = facts.tensors[l.name .. ".weight_g_idx"] and of("weight_g_idx", { "s32" }, l.k) or nil
  return finish_groups(q, s, l, groups)
end

function readers.int8(facts, q, l)
  if not q.symmetric then
    refuse("%s: asymmetric int-quantized weights are not supported; supported: symmetric", l.name)
  end
  local groups = extent(facts, l.name .. ".weight_scale", 2)
  local scales = checked_tensor(facts, l.name .. ".weight_scale", float_types, { l.n, groups })
  local sources = { checked_tensor(facts, l.name .. ".weight", { "s8" }, { l.n, l.k }), scales }
  local s = { op = "pack_int8", w = "w8", from = scales.dtype, sources = sources }
  return finish_groups(q, s, l, groups)
end

function readers.dense(facts, q, l)
  local source = checked_tensor(facts, l.name .. ".weight", float_types, { l.n, l.k })
  return { op = "pack_dense", w = source.dtype, from = source.dtype, sources = { source }, dense = true }
end

-- How layer `l` is stored; q = quantization(facts).
function stored_layer(facts, q, l)
  if facts.random then return { w = main_type(facts), dense = true } end
  local function has(part) return facts.tensors[l.name .. "." .. part] end
  local kind = has("qweight") and "qweight" or has("weight_packed") and "weight_packed"
  if kind and not q then
    refuse("tensor %s.%s is quantized, but config.json has no quantization_config", l.name, kind)
  end
  if kind == "qweight" then
    return (readers[q.method] or refuse("tensor %s.qweight does not belong to %s", l.name, q.method))(facts, q, l)
  end
  if kind == "weight_packed" then return readers.packed(facts, q, l) end
  local weight = has("weight")
  if q and weight and weight.dtype == "s8" then return readers.int8(facts, q, l) end
  return readers.dense(facts, q, l)
end
