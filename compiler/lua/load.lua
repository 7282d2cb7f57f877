-- load.lua - from the tensors of a checkpoint to the weights of a matmul: how each linear layer is stored, which format it is
-- computed in, and the load steps that pack it. Nothing here looks at data: shapes, types and config.json decide.
--
-- Stored forms, by the tensors that a layer `name` has:
--   dense    name.weight in f32, f16 or bf16
--   gptq     name.qweight, .qzeros, .scales [, .g_idx]          4 or 8 bits, checkpoint_format "gptq" or "gptq_v2"
--   awq      name.qweight, .qzeros, .scales                     4 bits, version "gemm"
--   packed   name.weight_packed, .weight_scale [, .weight_zero_point] [, .weight_g_idx]   compressed-tensors, 4 or 8 bits
--   int8     name.weight in s8, name.weight_scale               compressed-tensors "int-quantized"
-- A layer without quantized tensors is dense, whatever config.json lists as ignored.
--
-- --weights: auto keeps what is stored (dense as it is, 4 bits as w4, 8 bits as w8); f32, f16, bf16 unpack quantized layers,
-- exactly in f32; w8, w4, w4a16 round dense layers. The logits of a rounded w4 model stay in w8 (bf16 for w4a16): they are
-- what rounding hurts most.

local weight_choices = { "auto", "f32", "f16", "bf16", "w8", "w4", "w4a16" }
local head_choices = { w4 = "w8", w4a16 = "bf16" }
local methods = "gptq, awq, compressed-tensors"

local function refuse(format, ...) error(format:format(...), 0) end

local function one_of(value, list)
  for _, item in ipairs(list) do
    if value == item then return true end
  end
  return false
end

-- ---- tensors --------------------------------------------------------------------------------------------------------------

local floats = { "f32", "f16", "bf16" }

local function shape_text(shape) return "[" .. table.concat(shape, ", ") .. "]" end

-- The tensor's load argument; its type must be one of `types`, its shape `shape`.
local function tensor(facts, name, types, shape)
  local t = facts.tensors[name] or refuse("the checkpoint has no tensor %s; %s %s is needed", name, table.concat(types, " or "), shape_text(shape))
  if not one_of(t.dtype, types) then
    refuse("tensor %s is stored as %s, which is not supported here; supported: %s", name, t.dtype, table.concat(types, ", "))
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
      if one_of(t.dtype, floats) and (not first or key < first) then first = key end
    end
    return first and facts.tensors[first].dtype or "f32"
  end
  return config_types[name] or refuse('config.json: torch_dtype "%s" is not supported; supported: float32, float16, bfloat16', tostring(name))
end

-- ---- config.json's quantization_config --------------------------------------------------------------------------------------

local function need(q, key, value, supported)
  if not one_of(value, supported) then
    for i, v in ipairs(supported) do supported[i] = tostring(v) end
    refuse('config.json: quantization_config of %s has "%s": %s; supported: %s', q.method, key, tostring(value), table.concat(supported, ", "))
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
local function quantization(facts)
  local c = facts.config.quantization_config
  if c == nil then return nil end
  if type(c) ~= "table" then refuse("config.json: quantization_config is not an object") end
  local q = { method = c.quant_method or c.bits and "gptq" or "(none)" }
  local check = checks[q.method] or refuse('config.json: quant_method "%s" is not supported; supported: %s', tostring(q.method), methods)
  check(q, c)
  return q
end

-- ---- how a layer is stored ----------------------------------------------------------------------------------------------------
-- {op, w = format of the panel, group, zeros, from = type of scales (or of dense weights), perm = load argument of the group
-- indices, sources = load arguments of the packing operator, add_zero, dense}

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
  local function of(part, types, ...) return tensor(facts, l.name .. "." .. part, types, { ... }) end
  local bits, groups = bits_of(l, "qweight", extent(facts, l.name .. ".qweight", 1)), extent(facts, l.name .. ".scales", 1)
  multiple(l, "inputs", l.k, 32 // bits)
  local scales = of("scales", floats, groups, l.n)
  local s = { op = "pack_gptq", w = bits == 4 and "w4" or "w8", zeros = not q.symmetric or nil, from = scales.dtype,
              add_zero = not q.symmetric and q.add_zero or nil }
  s.sources = { of("qweight", { "s32" }, l.k * bits // 32, l.n) }
  if s.zeros then s.sources[2] = of("qzeros", { "s32" }, groups, ceil_div(l.n * bits, 32)) end
  s.sources[#s.sources + 1] = scales
  s.perm = q.perm and of("g_idx", { "s32" }, l.k) or nil
  return finish_groups(q, s, l, groups)
end

function readers.awq(facts, q, l)
  local function of(part, types, ...) return tensor(facts, l.name .. "." .. part, types, { ... }) end
  local groups = extent(facts, l.name .. ".scales", 1)
  multiple(l, "outputs", l.n, 8)
  local scales = of("scales", floats, groups, l.n)
  local sources = { of("qweight", { "s32" }, l.k, l.n // 8), of("qzeros", { "s32" }, groups, l.n // 8), scales }
  return finish_groups(q, { op = "pack_awq", w = "w4", zeros = true, from = scales.dtype, sources = sources }, l, groups)
end

function readers.packed(facts, q, l)
  local function of(part, types, ...) return tensor(facts, l.name .. "." .. part, types, { ... }) end
  local words, groups = extent(facts, l.name .. ".weight_packed", 2), extent(facts, l.name .. ".weight_scale", 2)
  local bits = bits_of(l, "weight_packed", words)
  local scales = of("weight_scale", floats, l.n, groups)
  local s = { op = "pack_compressed", w = bits == 4 and "w4" or "w8", zeros = not q.symmetric or nil, from = scales.dtype }
  s.sources = { of("weight_packed", { "s32" }, l.n, words) }
  if s.zeros then s.sources[2] = of("weight_zero_point", { "s32" }, ceil_div(l.n * bits, 32), groups) end
  s.sources[#s.sources + 1] = scales
  s.perm = facts.tensors[l.name .. ".weight_g_idx"] and of("weight_g_idx", { "s32" }, l.k) or nil
  return finish_groups(q, s, l, groups)
end

function readers.int8(facts, q, l)
  if not q.symmetric then refuse("%s: asymmetric int-quantized weights are not supported; supported: symmetric", l.name) end
  local groups = extent(facts, l.name .. ".weight_scale", 2)
  local scales = tensor(facts, l.name .. ".weight_scale", floats, { l.n, groups })
  local sources = { tensor(facts, l.name .. ".weight", { "s8" }, { l.n, l.k }), scales }
  return finish_groups(q, { op = "pack_int8", w = "w8", from = scales.dtype, sources = sources }, l, groups)
end

function readers.dense(facts, q, l)
  local source = tensor(facts, l.name .. ".weight", floats, { l.n, l.k })
  return { op = "pack_dense", w = source.dtype, from = source.dtype, sources = { source }, dense = true }
end

local function stored(facts, q, l)
  if facts.random then return { w = main_type(facts), dense = true } end
  local function has(part) return facts.tensors[l.name .. "." .. part] end
  local kind = has("qweight") and "qweight" or has("weight_packed") and "weight_packed"
  if kind and not q then refuse("tensor %s.%s is quantized, but config.json has no quantization_config", l.name, kind) end
  if kind == "qweight" then
    return (readers[q.method] or refuse("tensor %s.qweight does not belong to %s", l.name, q.method))(facts, q, l)
  end
  if kind == "weight_packed" then return readers.packed(facts, q, l) end
  local weight = has("weight")
  if q and weight and weight.dtype == "s8" then return readers.int8(facts, q, l) end
  return readers.dense(facts, q, l)
end

-- ---- which format it is computed in ---------------------------------------------------------------------------------------------
-- {w, group, zeros, scale = type of scales}: parameters of the matmul

local function is_head(l) return l.name == "lm_head" or l.name:find("embed_tokens$") ~= nil end

local function round_group(w, k)
  if w == "w8" then return round_up(k, 16) end
  for _, group in ipairs { 128, 64, 32 } do
    if k % group == 0 then return group end
  end
  return round_up(k, 16)
end

-- Rounded weights: scales of w4 in bf16, which holds any magnitude; rounding follows the stored scale.
local function rounded(w, k) return { w = w, group = round_group(w, k), scale = w == "w8" and "f32" or "bf16" } end

local function dense_format(choice, s, l)
  choice = is_head(l) and head_choices[choice] or choice
  local w = choice == "auto" and s.w or choice
  return weight_formats[w].acc and rounded(w, l.k) or { w = w }
end

local function quantized_format(choice, s, l)
  if choice == "w4a16" and s.w == "w4" then return { w = "w4a16", group = s.group, zeros = s.zeros, scale = s.from } end
  if choice == "auto" or choice == s.w then return { w = s.w, group = s.group, zeros = s.zeros, scale = s.from } end
  if one_of(choice, floats) then return { w = choice } end
  refuse("--weights %s: %s is already quantized to %d bits; use auto, f32, f16 or bf16", choice, l.name, packed_bits(s.w))
end

-- What tells orders of inputs apart: equal hashes of the group indices are equal orders. nil: any order will do.
local function order_of(facts, s)
  return s.perm and (facts.tensors[s.perm.tensor].hash or s.perm.tensor)
end

-- One format for all parts. Parts of different formats, and of different orders of their inputs, are unpacked to the widest
-- float type involved.
local function common_format(facts, parts)
  local choice, first, same = facts.weights or "auto", nil, true
  if not one_of(choice, weight_choices) then
    refuse("--weights %s: unknown format; known: %s", tostring(choice), table.concat(weight_choices, ", "))
  end
  for _, part in ipairs(parts) do
    local f = (part.stored.dense and dense_format or quantized_format)(choice, part.stored, part)
    first = first or f
    same = same and f.w == first.w and f.group == first.group and f.zeros == first.zeros
    if f.scale ~= first.scale then first.scale = "f32" end
    if weight_formats[f.w].acc and order_of(facts, part.stored) ~= order_of(facts, parts[1].stored) then same = false end
  end
  if same then return first end
  local types = { [main_type(facts)] = true }
  for _, part in ipairs(parts) do
    if part.stored.dense then types[part.stored.w] = true end
  end
  return { w = next(types, next(types)) and "f32" or next(types) }
end

-- ---- load steps ------------------------------------------------------------------------------------------------------------------

local function panel_bytes(w, k, n)
  local f = weight_formats[w]
  return round_up(k, 16) * round_up(n, 16) * (f.elem == "u4" and 4 or 8 * bytes_of(f.elem)) // 8
end

-- Memory that is needed only while a layer is packed: shared by all layers, since load steps run one after the other.
local function temporary(plan, what, bytes)
  plan.temporaries = plan.temporaries or {}
  local key = what .. bytes
  plan.temporaries[key] = plan.temporaries[key] or plan:buffer { name = "loading " .. what, kind = "temporary", bytes = bytes }
  return { buffer = plan.temporaries[key], offset = 0 }
end

-- Order of a part's inputs by group, kept for the activations: argsort of the group indices. Equal orders share a buffer.
local function kept_order(plan, facts, part)
  plan.orders = plan.orders or {}
  local key = order_of(facts, part.stored)
  if not plan.orders[key] then
    plan.orders[key] = plan:buffer { name = part.name .. " order", kind = "weight", bytes = 4 * part.k }
    plan:builtin("argsort", part.stored.perm, { buffer = plan.orders[key], offset = 0 })
  end
  return plan.orders[key]
end

-- Packs one part as it is stored; perm: load argument of the order of its inputs, or nil.
local function emit_pack(plan, part, f, perm, pitch, to)
  local s = part.stored
  local p = { n = part.n, k = part.k, w = f.w, from = s.from, group = f.group, scale = f.scale, zeros = f.zeros,
              add_zero = s.add_zero, perm = perm and true or nil, pitch = pitch }
  local op = s.dense and f.group and "pack_quantized" or s.op
  if op == "pack_dense" then p.pitch = nil end
  local args = {}
  for i, source in ipairs(s.sources) do args[i] = source end
  args[#args + 1] = perm
  for _, name in ipairs { "w", "scale", "zero" } do args[#args + 1] = to[name] end
  plan:load(build(op, p), args)
end

-- Packs one part into temporary memory and unpacks it to a dense panel, inputs in their natural order.
local function emit_unpack(plan, part, w, to)
  local s = part.stored
  local f = { w = s.w, group = s.group, zeros = s.zeros, scale = s.from }
  local groups = weight_groups { k = part.k, group = s.group } * round_up(part.n, 16)
  local from = { w = temporary(plan, "panel", panel_bytes(s.w, part.k, part.n)), scale = temporary(plan, "scales", groups * bytes_of(s.from)),
                 zero = s.zeros and temporary(plan, "zeros", groups) }
  local order = s.perm and temporary(plan, "order", 4 * part.k)
  if order then plan:builtin("argsort", s.perm, order) end
  emit_pack(plan, part, f, order, nil, from)
  local args = { from.w, from.scale }
  args[#args + 1] = from.zero
  if order then -- the inverse of the order
    local inverse = temporary(plan, "inverse", 4 * part.k)
    plan:builtin("argsort", order, inverse)
    args[#args + 1] = inverse
  end
  args[#args + 1] = to.w
  plan:load(build("unpack", { n = part.n, k = part.k, from = s.w, w = w, group = s.group, scale = s.from, zeros = s.zeros,
                              perm = order and true or nil }), args)
end

-- The places of one part in the merged buffers.
local function slices(f, ids, part)
  local column = part.column
  return { w = { buffer = ids.w, offset = panel_bytes(f.w, part.k, column) },
           scale = ids.scale and { buffer = ids.scale, offset = column * bytes_of(f.scale) },
           zero = ids.zero and { buffer = ids.zero, offset = column } }
end

local fills = { f32 = { type = "f32", scale = 0.02 }, f16 = { type = "f16", scale = 0.02 }, bf16 = { type = "bf16", scale = 0.02 },
                w8 = { type = "u8" }, w4 = { type = "u8" }, w4a16 = { type = "u8" } }
local scale_means = { w8 = 0.02 / 74, w4 = 0.02 / 4.6, w4a16 = 0.02 / 4.6 } -- deviation 0.02 of uniformly random codes

local function weight_buffers(plan, name, f, k, n, bias)
  local groups = f.group and weight_groups { k = k, group = f.group } * n
  local bytes = { w = panel_bytes(f.w, k, n), scale = groups and groups * bytes_of(f.scale), zero = f.zeros and groups, bias = bias and 4 * n }
  local fill = { w = fills[f.w], scale = groups and { type = f.scale, scale = 0.0, mean = scale_means[f.w] },
                 bias = { type = "f32", scale = 0.02 } }
  local ids, total = {}, 0
  for _, part in ipairs { "w", "scale", "zero", "bias" } do
    if bytes[part] then
      ids[part] = plan:buffer { name = name .. (part == "w" and "" or " " .. part), kind = "weight", bytes = bytes[part], fill = fill[part] }
      total = total + bytes[part]
    end
  end
  return ids, total
end

local function emit_vector(plan, facts, name, n, to)
  local source = tensor(facts, name, floats, { n })
  plan:load(build("pack_vector", { n = n, from = source.dtype }), { source, to })
end

-- ---- what the graph calls ----------------------------------------------------------------------------------------------------------

-- A vector (norm weights) in f32, padded with zeros to a multiple of 16; returns its buffer.
function load_vector(plan, facts, name, n)
  local id = plan:buffer { name = name, kind = "weight", bytes = 4 * round_up(n, 16), fill = { type = "f32", scale = 0.0, mean = 1.0 } }
  if not facts.random then emit_vector(plan, facts, name, n, { buffer = id, offset = 0 }) end
  return id
end

local function parts_of(facts, sources)
  local parts, column, q = {}, 0, quantization(facts)
  for i, l in ipairs(sources) do
    if l.k ~= sources[1].k then refuse("%s and %s read inputs of different widths", sources[1].name, l.name) end
    parts[i] = { name = l.name, n = l.n, k = l.k, bias = l.bias, column = column, stored = stored(facts, q, l) }
    column = column + round_up(l.n, 16)
  end
  return parts, column
end

-- Weights of linear layers `sources` = { {name =, n = outputs, k = inputs, bias = bool}, ... } side by side, each from a multiple
-- of 16 columns on; `beside`: other layers whose weights must come out in the same format and order of inputs, or nil.
-- Returns {p = parameters {w, group, zeros, scale, bias} of the matmul, args = {w, scale, zero, bias} buffers, perm = buffer of
-- the permutation that is due on the activations or nil, bytes = what a step reads}.
function linear_weights(plan, facts, sources, beside)
  local parts, n = parts_of(facts, sources)
  local all, bias, perm = { table.unpack(parts) }, false, nil
  for _, part in ipairs(beside and parts_of(facts, beside) or {}) do all[#all + 1] = part end
  for _, part in ipairs(parts) do bias = bias or part.bias end
  local f = common_format(facts, all)
  local ids, bytes = weight_buffers(plan, sources[1].name, f, sources[1].k, n, bias)
  for _, part in ipairs(facts.random and {} or parts) do
    local to = slices(f, ids, part)
    if not part.stored.dense and not f.group then
      emit_unpack(plan, part, f.w, to)
    else
      perm = part.stored.perm and kept_order(plan, facts, part)
      emit_pack(plan, part, f, perm and { buffer = perm, offset = 0 }, #parts > 1 and n or nil, to)
    end
    if part.bias then emit_vector(plan, facts, part.name .. ".bias", part.n, { buffer = ids.bias, offset = 4 * part.column }) end
  end
  return { p = { w = f.w, group = f.group, zeros = f.zeros, scale = f.scale, bias = bias or nil }, args = ids, perm = perm, bytes = bytes }
end
