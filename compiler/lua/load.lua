-- load.lua - from the layers of a checkpoint (stored.lua) to the weights of a matmul: the format they are computed in,
-- the buffers, and the load steps that pack them.
--
-- --weights: auto keeps what is stored (dense as it is, 4 bits as w4, 8 bits as w8); f32, f16, bf16 unpack quantized
-- layers, exactly in f32; w8, w4, w4a16 round dense layers. The logits of a rounded w4 model stay in w8 (w4a16: bf16),
-- as rounding hurts them most.

local weight_choices = { "auto", "f32", "f16", "bf16", "w8", "w4", "w4a16" }
local head_choices = { w4 = "w8", w4a16 = "bf16" }

-- ---- which format it is computed in ---------------------------------------------------------------------------------
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
local function rounded(w, k)
  return { w = w, group = round_group(w, k), scale = w == "w8" and "f32" or "bf16" }
end

local function dense_format(choice, s, l)
  choice = is_head(l) and head_choices[choice] or choice
  local w = choice == "auto" and s.w or choice
  return weight_formats[w].acc and rounded(w, l.k) or { w = w }
end

local function quantized_format(choice, s, l)
  if one_of(choice, float_types) then return { w = choice } end
  local w = choice == "auto" and s.w or choice
  if packed_bits(w) == packed_bits(s.w) then return { w = w, group = s.group, zeros = s.zeros, scale = s.from } end
  local bits = packed_bits(s.w)
  refuse("--weights %s: %s is already quantized to %d bits; use auto, f32, f16 or bf16", choice, l.name, bits)
end

-- What tells orders of inputs apart: equal hashes of the group indices are equal orders. nil: any order will do.
local function order_of(facts, s)
  return s.perm and (facts.tensors[s.perm.tensor].hash or s.perm.tensor)
end

-- One format for all parts. Parts of different formats, and of different orders of their inputs, are unpacked to the
-- widest float type involved.
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
    same = same and (not weight_formats[f.w].acc or order_of(facts, part.stored) == order_of(facts, parts[1].stored))
  end
  if same then return first end
  local types = { [main_type(facts)] = true }
  for _, part in ipairs(parts) do
    if part.stored.dense then types[part.stored.w] = true end
  end
  return { w = next(types, next(types)) and "f32" or next(types) }
end

-- ---- load steps -----------------------------------------------------------------------------------------------------

-- Memory that is needed only while a layer is packed: shared by all layers, since load steps run one after the other.
local function temporary(plan, what, bytes)
  plan.temporaries = plan.temporaries or {}
  local key = what .. bytes
  plan.temporaries[key] = plan.temporaries[key] or
    plan:buffer { name = "loading " .. what, kind = "temporary", bytes = bytes }
  return { buffer = plan.temporaries[key], offset = 0 }
end

-- Order of a part's inputs by group, kept for the activations: argsort of the group indices. Equal ones share a buffer.
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
  local scales = weight_groups { k = part.k, group = s.group } * round_up(part.n, 16)
  local from = { w = temporary(plan, "panel", panel_bytes(s.w, part.k, part.n, s.group)),
                 scale = temporary(plan, "scales", scales * bytes_of(s.from)),
                 zero = s.zeros and temporary(plan, "zeros", scales) }
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
  local p = { n = part.n, k = part.k, from = s.w, w = w, group = s.group, scale = s.from, zeros = s.zeros,
              perm = order and true or nil }
  plan:load(build("unpack", p), args)
end

-- The places of one part in the merged buffers.
local function slices(f, ids, part)
  local column = part.column
  return { w = { buffer = ids.w, offset = panel_bytes(f.w, part.k, column, f.group) },
           scale = ids.scale and { buffer = ids.scale, offset = column * bytes_of(f.scale) },
           zero = ids.zero and { buffer = ids.zero, offset = column } }
end

-- Random contents of deviation 0.02: floats, or scales for codes that are random bits.
local scale_means = { w8 = 0.02 / 74, w4 = 0.02 / 4.6, w4a16 = 0.02 / 4.6 }

local function weight_buffers(plan, name, f, k, n, bias)
  local ids, total = {}, 0
  local function buffer(part, bytes, fill)
    local full = name .. (part == "w" and "" or " " .. part)
    ids[part] = plan:buffer { name = full, kind = "weight", bytes = bytes, fill = fill }
    total = total + bytes
  end
  buffer("w", panel_bytes(f.w, k, n, f.group), f.group and { type = "u8" } or { type = f.w, scale = 0.02 })
  if f.group then
    local scales = weight_groups { k = k, group = f.group } * n
    buffer("scale", scales * bytes_of(f.scale), { type = f.scale, scale = 0.0, mean = scale_means[f.w] })
    if f.zeros then buffer("zero", scales) end
  end
  if bias then buffer("bias", 4 * n, { type = "f32", scale = 0.02 }) end
  return ids, total
end

local function emit_vector(plan, facts, name, n, to)
  local source = checked_tensor(facts, name, float_types, { n })
  plan:load(build("pack_vector", { n = n, from = source.dtype }), { source, to })
end

-- ---- what the graph calls -------------------------------------------------------------------------------------------

-- A vector (norm weights) in f32, padded with zeros to a multiple of 16; returns its buffer.
function load_vector(plan, facts, name, n)
  local ones = { type = "f32", scale = 0.0, mean = 1.0 }
  local id = plan:buffer { name = name, kind = "weight", bytes = 4 * round_up(n, 16), fill = ones }
  if not facts.random then emit_vector(plan, facts, name, n, { buffer = id, offset = 0 }) end
  return id
end

local function parts_of(facts, sources)
  local parts, column, q = {}, 0, quantization(facts)
  for i, l in ipairs(sources) do
    if l.k ~= sources[1].k then refuse("%s and %s read inputs of different widths", sources[1].name, l.name) end
    parts[i] = { name = l.name, n = l.n, k = l.k, bias = l.bias, column = column, stored = stored_layer(facts, q, l) }
    column = column + round_up(l.n, panel_wide)
  end
  local last = parts[#parts]
  return parts, last.column + round_up(last.n, 16)
end

-- Weights of linear layers `sources` = { {name =, n = outputs, k = inputs, bias = bool}, ... } side by side, each from
-- a whole panel on; `beside`: other layers whose weights must come out in the same format and order of
-- inputs, or nil. Returns {p = parameters {w, group, zeros, scale, bias} of the matmul, args = {w, scale, zero, bias}
-- buffers, perm = buffer of the permutation that is due on the activations or nil, bytes = what a step reads}.
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
    if part.bias then
      emit_vector(plan, facts, part.name .. ".bias", part.n, { buffer = ids.bias, offset = 4 * part.column })
    end
  end
  local p = { w = f.w, group = f.group, zeros = f.zeros, scale = f.scale, bias = bias or nil }
  return { p = p, args = ids, perm = perm, bytes = bytes }
end
