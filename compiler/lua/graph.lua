-- graph.lua - from a model's description to launches. A description calls the methods below, one a layer of the
-- network; they make nodes. Nodes are emitted on demand, so that what belongs together is fused:
--   linears of one input that are consumed together (q/k/v)       one matmul over merged weights
--   silu(linear) * linear                                         one matmul with two weight matrices
--   add(stream, linear)                                           a matmul that adds to the residual stream in place
--   rmsnorm, then linear                                          the norm writes the form (bf16, s8 + scales) the matmul reads
--   rotary, q/k norm, KV write                                    one kernel
local Graph = {}
Graph.__index = Graph

-- Beyond these a configuration is a mistake, not a model.
local limits = { num_hidden_layers = 1024, hidden_size = 1 << 17, intermediate_size = 1 << 20, vocab_size = 1 << 22,
                 num_attention_heads = 1024, num_key_value_heads = 1024, head_dim = 1024, max_position_embeddings = 1 << 30 }

function new_graph(plan, facts)
  local g = setmetatable({ plan = plan, facts = facts, random = facts.random, config = facts.config }, Graph)
  g.config_integer = function(key, otherwise)
    local v, most = facts.config[key], limits[key] or 1 << 24
    if v == nil then v = otherwise end
    local n = type(v) == "number" and math.tointeger(v)
    if not n or n < 1 or n > most then
      error(('config.json: "%s" is %s; an integer from 1 to %d is needed'):format(key, tostring(v), most), 0)
    end
    return n
  end
  g.config_number = function(key, otherwise)
    local v = facts.config[key]
    if v == nil then v = otherwise end
    if type(v) ~= "number" or v < 0 or v > 1e9 then
      error(('config.json: "%s" is %s; a number from 0 to 1e9 is needed'):format(key, tostring(v)), 0)
    end
    return v + 0.0
  end
  -- unless said otherwise, the KV cache holds what the model computes in
  local kinds = { f32 = "f32", f16 = "f16", bf16 = "bf16", int8 = "s8" }
  local natural = facts.weights == "auto" and main_type(facts) or facts.weights
  if facts.kv and not kinds[facts.kv] then
    error(("unknown format '%s' of the KV cache; known: auto, f32, f16, bf16, int8"):format(facts.kv), 0)
  end
  g.kv = kinds[facts.kv] or ({ f32 = "f32", f16 = "f16" })[natural] or "bf16"
  return g
end

function Graph:expect(condition, format, ...)
  if not condition then error("config.json: " .. format:format(...), 0) end
end

function Graph:has(tensor) return self.facts.tensors[tensor] ~= nil end

function Graph:describe(model)
  for key, value in pairs(model) do self.plan.model[key] = value end
end

-- ---- nodes: what a description calls; nothing is emitted yet --------------------------------------------------------

function Graph:node(op, n, inputs, more)
  local node = more or {}
  node.op, node.n, node.inputs, node.users, node.forms = op, n, inputs, 0, {}
  node.rows = node.rows or inputs[1] and inputs[1].rows
  for _, input in ipairs(inputs) do input.users = input.users + 1 end
  return node
end

function Graph:embedding(name, vocab, n) return self:node("embedding", n, {}, { name = name, vocab = vocab }) end
function Graph:rmsnorm(x, name, eps) return self:node("rmsnorm", x.n, { x }, { name = name, eps = eps }) end
function Graph:linear(x, name, n, bias) return self:node("linear", n, { x }, { name = name, bias = bias }) end
function Graph:silu(x) return self:node("silu", x.n, { x }) end
function Graph:mul(x, y) return self:node("mul", x.n, { x, y }) end
function Graph:add(x, y) return self:node("add", x.n, { x, y }) end
function Graph:output_rows(x) return self:node("output_rows", x.n, { x }, { rows = "outputs" }) end
function Graph:attention(q, k, v, p) return self:node("attention", p.heads * p.head_dim, { q, k, v }, { p = p }) end
function Graph:logits(x) self.head = x end

-- Called once by every consumer: the last one frees the node's buffers.
local function used(self, node)
  node.users = node.users - 1
  if node.users > 0 then return end
  for _, form in pairs(node.forms) do
    for _, id in ipairs(form) do self.plan:release(id) end
  end
  if node.buffer then self.plan:release(node.buffer) end
end

-- ---- pieces of emission ---------------------------------------------------------------------------------------------

local concat = concat_lists

-- Activations for the arguments of a record that follow the first `count`.
local function fresh_outputs(self, record, count)
  local ids = {}
  for i = count + 1, #record.args do ids[#ids + 1] = self.plan:activation(record.args[i]) end
  return ids
end

function Graph:vector(name, n)
  self.vectors = self.vectors or {}
  self.vectors[name] = self.vectors[name] or load_vector(self.plan, self.facts, name, n)
  return self.vectors[name]
end

-- The hidden states of the rows that are asked for: the final norm, once more, as f32.
local function emit_hidden(self, node, x, w)
  local plan = self.plan
  local record = build("rmsnorm", { n = node.n, eps = node.eps, out = "f32", gather = "hiddens" })
  plan.hidden_stride = row_pitch(round_up(node.n, 16), "f32")
  plan:launch("step", record, { x, w, plan:input("hidden_rows"), plan:output("hidden") })
end

local function emit_rmsnorm(self, node, out, group)
  local x, gather = node.inputs[1], nil
  if x.op == "output_rows" then x, gather = x.inputs[1], "outputs" end
  local args = { self:value(x), self:vector(node.name, node.n) }
  if gather then
    args[3] = self.plan:input("output_rows")
    emit_hidden(self, node, args[1], args[2])
  end
  local record = build("rmsnorm", { n = node.n, eps = node.eps, out = out, group = group, gather = gather })
  local ids = fresh_outputs(self, record, #args)
  self.plan:launch("step", record, concat(args, ids))
  used(self, x)
  return ids
end

-- x in the form that weights with parameters `w` read: {y [, scale] [, sum]}. Norms and attention write it themselves.
function Graph:form(node, w, perm)
  local f = weight_formats[w.w]
  local group = f.acc and w.group or nil
  local key = ("%s/%s/%s"):format(f.x, group, perm)
  if node.forms[key] then return node.forms[key] end
  local plain = not perm and not group
  if node.op == "rmsnorm" and not perm then
    node.forms[key] = emit_rmsnorm(self, node, f.x, group)
  elseif plain and f.x == "f32" then
    return { self:value(node) }
  elseif plain and node.op == "attention" and not node.buffer then
    node.forms[key] = { self:emit_attention(node, f.x) }
  else
    local record = build("quantize", { n = node.n, out = f.x, group = group, perm = perm and true or nil, rows = node.rows })
    local args = { self:value(node), perm }
    local ids = fresh_outputs(self, record, #args)
    self.plan:launch("step", record, concat(args, ids))
    node.forms[key] = ids
  end
  return node.forms[key]
end

-- Elements of K a piece, where a matmul of few rows has too few columns to fill a GPU and K must be shared out as well;
-- nil: K stays whole.
local function cut_of(p)
  local f = weight_formats[p.w]
  if not target.gpu or not f.run or p.over or p.k < 512 or p.n > 8192 or (p.group and p.group > 256) then return end
  local cut = 256
  while cut * 2 <= math.min(p.k // 4, 2048) do cut = cut * 2 end
  return cut
end

-- Buckets of few rows compute pieces of a cut K side by side and add them up; the others do so in one launch, with the
-- same bits.
local most_rows_in_parts = 32

function Graph:launch_matmul(p, args, y)
  local plan = self.plan
  p.cut = cut_of(p)
  y = y or plan:activation(build("matmul", p, nil, 0).args[#args + 1])
  if not p.cut then
    plan:launch("step", function(bucket) return build("matmul", p, nil, bucket) end, concat(args, { y }))
    return y
  end
  local part, merge = { part = true }, build("matmul_merge", { n = p.n, k = p.k, group = p.group, cut = p.cut, act = p.act, bias = p.bias,
                                                               residual = p.residual })
  for key, value in pairs(p) do
    if key ~= "residual" and key ~= "bias" then part[key] = value end
  end
  local inputs, biases, parts = {}, {}, {}
  for i, d in ipairs(build("matmul", p, nil, 0).args) do
    if i <= #args then table.insert(d.name:find("^bias") and biases or inputs, args[i]) end
  end
  local first = build("matmul", part, nil, 1).args
  for i = #inputs + 1, #first do parts[#parts + 1] = plan:activation(first[i]) end
  local merged = {}
  for i, id in ipairs(parts) do
    merged[#merged + 1] = id
    merged[#merged + 1] = biases[i]
  end
  for _, step in ipairs(plan.steps) do
    if step.max_tokens > 0 and step.max_tokens <= most_rows_in_parts then
      plan:launch_at(step, build("matmul", part, nil, step.max_tokens), concat(inputs, parts))
      plan:launch_at(step, merge, concat(merged, { y }))
    else
      plan:launch_at(step, build("matmul", p, nil, step.max_tokens), concat(args, { y }))
    end
  end
  for _, id in ipairs(parts) do plan:release(id) end
  return y
end

-- One matmul over the weights of `nodes` side by side; `pair`: a second linear for silu(first) * second; `into`: a
-- buffer that the result is added to. Returns the buffer of the result and the first column of each part.
function Graph:emit_matmul(nodes, pair, into)
  local plan, x = self.plan, nodes[1].inputs[1]
  local function sources_of(list)
    local sources = {}
    for i, node in ipairs(list) do sources[i] = { name = node.name, n = node.n, k = x.n, bias = node.bias or false } end
    return sources
  end
  local left, right = sources_of(nodes), pair and sources_of { pair }
  local sides = { linear_weights(plan, self.facts, left, right), pair and linear_weights(plan, self.facts, right, left) }
  local first, offsets, n = sides[1], {}, 0
  for i, node in ipairs(nodes) do
    offsets[i] = round_up(n, panel_wide)
    n = offsets[i] + node.n
  end
  local p = { n = n, k = x.n, act = pair and "silu_mul" or nil, residual = into and true or nil, over = nodes[1].rows }
  for key, value in pairs(first.p) do p[key] = value end
  local weights = {}
  for _, side in ipairs(sides) do
    for _, name in ipairs { "w", "scale", "zero", "bias" } do weights[#weights + 1] = side.args[name] end
    plan.weight_bytes = plan.weight_bytes + side.bytes
    local per = nodes[1].rows == "outputs" and "output_flops" or "flops"
    plan[per] = plan[per] + 2 * n * x.n
  end
  local args = concat(self:form(x, first.p, first.perm), weights)
  local y = into or nodes[1].output
  y = self:launch_matmul(p, args, y)
  self.formats = self.formats or {}
  self.formats[first.p.w] = (self.formats[first.p.w] or 0) + 2 * n * x.n
  for _ = 1, #nodes + (pair and 1 or 0) do used(self, x) end
  return y, offsets
end

-- To whole vectors, with zeros.
local function padded(values)
  local list = concat(values)
  while #list % 16 ~= 0 do list[#list + 1] = 0.0 end
  return list
end

local function page_bytes(d)
  local n = 1
  for i = 2, #d.dims do n = n * d.dims[i] end
  return n * bytes_of(d.elem)
end

-- Tokens of a tile of a prompt: as many query rows as registers hold on a CPU; on GPUs 16 for each of a few warps.
local function prefill_tile(p)
  local group = p.heads // p.kv_heads
  if not kv_in_runs(p) then
    return math.max(1, (target.vector_registers == 32 and target.vector_bits == 512 and 12 or 4) // group)
  end
  local unit, rows = target.gpu.matrix, 64
  if p.head_dim > 128 then
    rows = unit == "mfma" and 32 or target.gpu.shared >= 128 << 10 and 32 or 16
  elseif p.head_dim > 64 and unit == "wmma" then
    rows = 32
  end
  return power_of_two_divisor(1 << 20, math.max(1, rows // group))
end

-- Rooms for segments that blocks compute apart (templates/attention.lua): up to 2048, in 32 MiB.
function attention_split(p)
  return math.min(2048, (32 << 20) // (4 * p.heads * round_up(p.head_dim, 16)))
end

local function merged(...)
  local all = {}
  for _, t in ipairs { ... } do
    for key, value in pairs(t) do all[key] = value end
  end
  return all
end

-- q rotated, k and v to their pages. Returns the buffers of q and of the pages.
local function emit_rotary(self, node, heads)
  local plan, p, rope, norms = self.plan, node.p, node.p.rope, node.p.norms
  local qkv, offsets = self:emit_matmul(node.inputs)
  self.inv_freq = self.inv_freq or {}
  local key = canonical(rope.inv_freq)
  self.inv_freq[key] = self.inv_freq[key] or plan:constant("inv_freq", padded(rope.inv_freq))
  local turned = merged(heads, { rotary = rope.rotary, style = p.style or "halves", factor = rope.factor + 0.0,
    scale = (p.scale or p.head_dim ^ -0.5) + 0.0, offsets = offsets, qk_norm = norms and true or nil, eps = norms and norms.eps })
  local rotary = build("rotary", turned)
  local args = { qkv, plan:input("positions"), plan:input("kv_slot"), self.inv_freq[key] }
  if norms then
    args[#args + 1] = self:vector(norms.q, p.head_dim)
    args[#args + 1] = self:vector(norms.k, p.head_dim)
  end
  local query = plan:activation(rotary.args[#args + 1])
  self:expect(self.kv ~= "s8" or p.head_dim % 16 == 0, "a KV cache of int8 needs heads of a multiple of 16 columns, not %d", p.head_dim)
  local pages = {}
  for i, name in ipairs(self.kv == "s8" and { "k", "v", "k scales", "v scales" } or { "k", "v" }) do
    pages[i] = plan:buffer { name = ("kv %s %s"):format(name, node.inputs[1].name), kind = "kv",
                             page_bytes = page_bytes(rotary.args[#args + 1 + i]) }
  end
  local function by_rows(bucket) return build("rotary", turned, nil, bucket) end
  plan:launch("step", target.gpu and by_rows or rotary, concat(args, { query }, pages))
  plan:release(qkv)
  return query, pages
end

-- Attention over one kind of tiles into y, a new buffer unless it is given; and the merge, where segments are spread.
local function emit_tiles(self, what, query, pages, y)
  local plan = self.plan
  local tiles, positions = plan:input(what.tiles), plan:input("positions")
  local record, rooms = build("attention", what), {}
  y = y or plan:activation(record.args[#record.args - (what.split and 2 or 0)])
  for i = 1, what.split and 2 or 0 do rooms[i] = plan:activation(record.args[#record.args - 2 + i]) end
  local function by_rows(bucket) return build("attention", what, nil, bucket) end
  plan:launch("step", target.gpu and by_rows or record,
              concat({ query }, pages, { positions, tiles, plan:input("block_table"), y }, rooms))
  if not what.split then return y end
  local p = merged(what)
  p.kv_heads, p.kv, p.tile = nil, nil, nil
  plan:launch("step", build("attention_combine", p), concat(rooms, { positions, tiles, y }))
  for _, id in ipairs(rooms) do plan:release(id) end
  return y
end

function Graph:emit_attention(node, out)
  local p = node.p
  local heads = { heads = p.heads, kv_heads = p.kv_heads, head_dim = p.head_dim, page = page_tokens, kv = self.kv }
  local query, pages = emit_rotary(self, node, heads)
  local what = merged(heads, { window = p.window, segment = attention_segment, out = out })
  local split = kv_in_runs(heads) and attention_split(heads) or nil
  self.plan.prefill_tile = prefill_tile(heads)
  local y = emit_tiles(self, merged(what, { tile = 1, tiles = "decode_tiles", split = split }), query, pages)
  emit_tiles(self, merged(what, { tile = self.plan.prefill_tile, tiles = "prefill_tiles" }), query, pages, y)
  self.plan:release(query)
  return y
end

local function emit_embedding(self, node)
  local facts, source = self.facts, self.facts.tensors[node.name]
  local elem = source and source.dtype or main_type(facts)
  if not source and not facts.random then error(("the checkpoint has no tensor %s"):format(node.name), 0) end
  local record = build("embedding", { vocab = node.vocab, n = node.n, w = elem })
  local words = self.plan:buffer { name = node.name, kind = "mapped", tensor = node.name, dtype = elem, align = 1,
    shape = { node.vocab, node.n }, bytes = node.vocab * node.n * bytes_of(elem), fill = { type = elem, scale = 0.02 } }
  local y = self.plan:activation(record.args[3])
  self.plan:launch("step", record, { self.plan:input("tokens"), words, y })
  return y
end

-- add(stream, linear): the matmul adds to the stream's buffer, which then holds the sum.
local function emit_add(self, node)
  local stream, branch = node.inputs[1], node.inputs[2]
  if branch.op ~= "linear" then error("add: only a linear can be added to the residual stream", 0) end
  local into = self:value(stream)
  self:emit_matmul({ branch }, nil, into)
  if stream.users ~= 1 then error("add: the residual stream is still read by others", 0) end
  stream.buffer = nil -- taken over
  return into
end

local function emit_mul(self, node)
  local gate, up = node.inputs[1], node.inputs[2]
  if gate.op ~= "silu" or gate.inputs[1].op ~= "linear" or up.op ~= "linear" or gate.inputs[1].inputs[1] ~= up.inputs[1] then
    error("mul: only silu(linear(x)) * linear(x) is known", 0)
  end
  return (self:emit_matmul({ gate.inputs[1] }, up))
end

local emitters = {
  embedding = emit_embedding, add = emit_add, mul = emit_mul,
  rmsnorm = function(self, node) return emit_rmsnorm(self, node, "f32")[1] end,
  linear = function(self, node) return (self:emit_matmul { node }) end,
  attention = function(self, node) return self:emit_attention(node, "f32") end,
}

-- The node's value as f32: the buffer it is in, emitted when first asked for.
function Graph:value(node)
  if not node.buffer then
    local emit = emitters[node.op] or error("no kernel for '" .. node.op .. "' by itself", 0)
    node.buffer = emit(self, node)
  end
  return node.buffer
end

local peaks = { w8 = "int8", w4 = "int8", bf16 = "bf16", w4a16 = "bf16", f16 = "f32", f32 = "f32" }

function Graph:finish()
  local plan = self.plan
  if not self.head then error("the model's description ends without logits", 0) end
  self.head.output = plan:output("logits")
  plan.logits_stride = row_pitch(round_up(self.head.n, 16), "f32")
  self:value(self.head)
  local most
  for w, flops in pairs(self.formats) do
    if not most or flops > self.formats[most] then most = w end
  end
  plan.peak = peaks[most]
  plan.model.kv = self.kv
  if plan_sampling then plan_sampling(plan) end
  if plan_limits then plan_limits(plan) end
end
