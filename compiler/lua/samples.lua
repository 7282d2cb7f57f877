-- samples.lua - kernels to be timed on a machine that has no generator (cases.c, tests/gpu/bench_kernels.c): what a Llama of
-- 8 billion parameters runs, at the schedules' defaults and with every setting changed alone. In the JSON, besides the limits
-- of any plan:
--   "cases": [{ operator, parameters, name, sizes, operations, moved = bytes that must pass through memory,
--               peak = limit that operations are held against, peer = what others would have to compute, or absent,
--               buffers = [{ name, type, written, bytes, cold = comes from memory, never from a cache, data = [s32] or absent }],
--               candidates = [{ launches = [{ kernel, buffers = [their numbers] }], settings, default }],
--               unbuilt = [{ label, why }] }]
-- Some operators are two launches, one after the other: what several blocks computed apart is put together by a second kernel.

local config = {
  architectures = { "LlamaForCausalLM" }, model_type = "llama", vocab_size = 128256, hidden_size = 4096, intermediate_size = 14336,
  num_hidden_layers = 1, num_attention_heads = 32, num_key_value_heads = 8, head_dim = 128, max_position_embeddings = 8192,
  rms_norm_eps = 1e-5, rope_theta = 500000.0, hidden_act = "silu", tie_word_embeddings = false,
}
local tiny = { vocab_size = 512, hidden_size = 256, intermediate_size = 512, num_attention_heads = 4, num_key_value_heads = 2, head_dim = 64 }
local formats = { "bf16", "w4a16", "w8", "w4" }

local samples, quick

-- The model's operators as the plan builds them, by name: { {sch, p}, ... }.
local function operators_of(weights)
  local found, seen, c = {}, {}, {}
  for key, value in pairs(config) do c[key] = value end
  for key, value in pairs(quick and tiny or {}) do c[key] = value end
  on_choice = function(sch, p)
    local key = sch.op .. canonical(p)
    if seen[key] then return end
    seen[key], found[sch.op] = true, found[sch.op] or {}
    table.insert(found[sch.op], { sch = sch, p = p })
  end
  plan_model { config = c, tensors = {}, weights = weights, random = true }
  on_choice = nil
  return found
end

local function is_cold(d)
  if d.access ~= "in" then return false end
  for i, e in ipairs(d.dims) do
    if math.type(e) ~= "integer" and not (i == 1 and e == "kv_pages") then return false end
  end
  return true
end

-- The buffers of a sample: the arguments of its first kernel, and what only its second has. Names are the first one's.
local function describe_buffers(c)
  local list, number, data = { list = true }, {}, c.w.data or {}
  local function buffer(name, d)
    local at = number[name]
    if not at then
      list[#list + 1] = { name = name, type = d.elem, written = d.access ~= "in", bytes = blade.bytes(d, c.w.sizes), cold = is_cold(d) }
      at = #list - 1
      number[name] = at
      if data[name] then
        local values = { list = true }
        for n = 1, list[at + 1].bytes // bytes_of(d.elem) do values[n] = data[name](n - 1) end
        list[at + 1].data = values
      end
    end
    return at
  end
  c.first, c.second = { list = true }, { list = true }
  for i, d in ipairs(c.candidates[1].args) do c.first[i] = buffer(d.name, d) end
  for i, d in ipairs(c.w.second and c.w.second.record.args or {}) do
    c.second[i] = buffer(c.w.second.names[d.name] or d.name, d)
  end
  return list
end

-- Bytes that must pass through memory: what goes in and what comes out, not what passes between the two kernels.
local function moved_bytes(c)
  local moved, between = 0, {}
  for _, d in ipairs(c.w.second and c.w.second.record.args or {}) do
    if d.access == "in" then
      between[c.w.second.names[d.name] or d.name] = true
    else
      moved = moved + blade.bytes(d, c.w.sizes) * (d.access == "inout" and 2 or 1)
    end
  end
  for _, d in ipairs(c.candidates[1].args) do
    local bytes = blade.bytes(d, c.w.sizes) * (d.access == "inout" and 2 or 1)
    if d.access == "in" or not c.w.second then moved = moved + bytes end
  end
  return moved
end

-- The defaults of a bucket, and what changes one setting of them and makes sense.
local function settings_of(sch, p, bucket)
  local list = { default_settings(sch, p, bucket) }
  for _, change in ipairs(checking.quick_settings(sch.settings)) do
    local s = default_settings(sch, p, bucket)
    for name, value in pairs(change) do s[name] = value end
    if canonical(s) ~= canonical(list[1]) and (not sch.sensible or sch.sensible(p, s, bucket)) then list[#list + 1] = s end
  end
  if quick then list[3] = nil end
  return list
end

-- w = { name, sizes, bucket, data, operations, peak, peer, second = { record, names = {its argument = the first's} } or nil }
local function add(sch, p, w)
  local c = { op = sch.op, p = p, w = w, candidates = {}, unbuilt = { list = true } }
  for _, s in ipairs(settings_of(sch, p, w.bucket)) do
    local ok, record = pcall(build_exactly, sch, p, s)
    if ok then
      c.candidates[#c.candidates + 1] = record
    else
      c.unbuilt[#c.unbuilt + 1] = { label = sch.op .. " " .. canonical(p) .. " " .. canonical(s), why = tostring(record) }
    end
  end
  samples[#samples + 1] = c
end

-- ---- operators ------------------------------------------------------------------------------------------------------

-- As Graph:launch_matmul: calls of few rows compute pieces of a cut K side by side, which a second kernel adds up.
local function in_parts(p)
  local part = { part = true }
  for key, value in pairs(p) do
    if key ~= "residual" and key ~= "bias" then part[key] = value end
  end
  local merge = { n = p.n, k = p.k, group = p.group, cut = p.cut, act = p.act, bias = p.bias, residual = p.residual }
  return part, { record = build("matmul_merge", merge), names = { x = "y", x2 = "y2", y = "result" } }
end

local function add_matmul(sch, p, rows)
  local tune, sizes, run, second = operators.matmul.tune, { tokens = rows }, p, nil
  if p.cut and rows <= 32 then run, second = in_parts(p) end
  add(sch, run, { name = ("matmul %s, %d x %d%s, %d rows"):format(p.w, p.k, p.n, p.act and " x 2" or "", rows),
    bucket = rows <= 1 and 1 or rows <= 32 and 32 or 0, sizes = sizes, operations = tune.operations(p, sizes), peak = tune.peak(p),
    second = second, peer = { kind = "matmul", format = p.w, m = rows, n = p.n * (p.act and 2 or 1), k = p.k } })
end

local function add_matmuls()
  for _, weights in ipairs(formats) do
    for _, o in ipairs(operators_of(weights).matmul) do
      for _, rows in ipairs(not (o.p.over or o.p.part) and (quick and { 1, 40 } or { 1, 16, 64, 512, 4096 }) or {}) do
        add_matmul(o.sch, o.p, rows)
      end
    end
  end
end

-- `seqs` sequences of `each` new tokens, the last of them at position context - 1.
local function add_attention(sch, p, what, seqs, each, context)
  local tokens, per, width = seqs * each, ceil_div(each, p.tile), context // p.page
  local sizes = { tokens = tokens, seqs = seqs, [p.tiles] = seqs * per, table_width = width, kv_pages = seqs * width }
  local data = {
    positions = function(row) return context - each + row % each end,
    block_table = function(i) return i * 7 % (seqs * width) end,
    tiles = function(i)
      local t, first = i // 4, i // 4 % per * p.tile
      return ({ t // per * each + first, math.min(p.tile, each - first), t // per, 0 })[i % 4 + 1]
    end,
  }
  local tune, second = operators.attention.tune, nil
  if p.split then
    second = { names = {}, record = build("attention_combine", { heads = p.heads, head_dim = p.head_dim, page = p.page, segment = p.segment,
                                                                  split = p.split, tiles = p.tiles, window = p.window, out = p.out }) }
  end
  add(sch, p, { name = ("%s, %d heads on %d, %d x %d tokens at %d"):format(what, p.heads, p.kv_heads, seqs, each, context),
    sizes = sizes, data = data, operations = tune.operations(p, sizes, data), peak = tune.peak(p), second = second,
    peer = { kind = "attention", heads = p.heads, kv_heads = p.kv_heads, head_dim = p.head_dim, seqs = seqs, tokens = each,
             context = context } })
end

local function add_attentions()
  for _, o in ipairs(operators_of("bf16").attention) do
    if o.p.tile == 1 then
      local p = {}
      for key, value in pairs(o.p) do p[key] = value end
      p.heads = 8 * p.kv_heads
      p.split = p.split and attention_split(p)
      for _, sch in ipairs(schedules.attention) do
        if not sch.fits or sch.fits(p) then
          add_attention(sch, p, "paged decode", quick and 2 or 32, 1, quick and 64 or 8192)
          break
        end
      end
    else
      add_attention(o.sch, o.p, "prefill", 1, quick and 64 or 4096, quick and 64 or 4096)
    end
  end
end

local function add_norms()
  local n = quick and 256 or 4096
  for _, p in ipairs { { n = n, eps = 1e-5, out = "bf16" }, { n = n, eps = 1e-5, out = "bf16", residual = true } } do
    local sch
    for _, s in ipairs(schedules.rmsnorm) do sch = sch or (not s.fits or s.fits(p)) and s end
    for _, rows in ipairs(quick and { 3 } or { 64, 16384 }) do
      add(sch, p, { name = ("rmsnorm%s, %d columns, %d rows"):format(p.residual and " + residual" or "", n, rows),
        sizes = { tokens = rows }, operations = 0, peak = "f32", peer = { kind = "rmsnorm", n = n, m = rows, residual = p.residual } })
    end
  end
end

local families = { matmul = add_matmuls, attention = add_attentions, rmsnorm = add_norms }

-- ---- called from C, as cases.lua ------------------------------------------------------------------------------------

local limits

function samples_prepare(given)
  samples, quick, limits = {}, given.quick, {}
  for _, name in ipairs { "matmul", "attention", "rmsnorm" } do
    if not given.operator or (given.operator .. ","):find(name .. ",", 1, true) then families[name]() end
  end
  local wanted, kernels = {}, { list = true }
  local function want(index)
    if not wanted[index] then kernels[#kernels + 1] = index end
    wanted[index] = true
  end
  for _, l in ipairs { read_limit(), copy_limit(), peak_limit("int8"), peak_limit("bf16") } do
    limits[#limits + 1] = l
    want(l.kernel)
  end
  for _, c in ipairs(samples) do
    for _, record in ipairs(c.candidates) do want(record.index) end
    if c.w.second then want(c.w.second.record.index) end
  end
  return json_encode { kernels = kernels, blobs = 0 }
end

function samples_blob() return "" end

function samples_json(given)
  local list, position, described, limit_list = {}, {}, { list = true }, { list = true }
  local function place(record)
    if not position[record] then
      list[#list + 1] = record
      position[record] = #list - 1
    end
    return position[record]
  end
  local function compiled(index) return not given.failures[tostring(index)] end
  for _, l in ipairs(limits) do
    if compiled(l.kernel) then
      l.kernel = place(kernel_list[l.kernel + 1])
      limit_list[#limit_list + 1] = l
    end
  end
  for i, c in ipairs(samples) do
    local d = { operator = c.op, parameters = parameters_text(c.p), name = c.w.name, sizes = c.w.sizes, operations = c.w.operations,
                peak = c.w.peak, peer = c.w.peer, unbuilt = c.unbuilt, candidates = { list = true }, buffers = { list = true } }
    if c.candidates[1] then d.buffers, d.moved = describe_buffers(c), moved_bytes(c) end
    for _, record in ipairs(c.candidates) do
      local second = c.w.second and c.w.second.record
      local failed = not compiled(record.index) and record or second and not compiled(second.index) and second
      if failed then
        table.insert(d.unbuilt, { label = failed.label, why = given.failures[tostring(failed.index)] })
      else
        local launches = { list = true, { kernel = place(record), buffers = c.first } }
        if second then launches[2] = { kernel = place(second), buffers = c.second } end
        table.insert(d.candidates, { launches = launches, settings = canonical(record.s):sub(2, -2), default = record == c.candidates[1] })
      end
    end
    described[i] = d
  end
  local fields = plain_plan(list, given.code)
  fields.cases, fields.limits = described, limit_list
  return json_encode(fields)
end
