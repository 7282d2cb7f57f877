-- samples.lua - kernels to be timed on a machine that has no generator (cases.c, tests/gpu/bench_kernels.c): what a Llama of
-- 8 billion parameters runs, at the schedules' defaults and with every setting changed alone. In the JSON, besides the limits
-- of any plan:
--   "cases": [{ operator, parameters, name, sizes, operations, moved = bytes that must pass through memory,
--               peak = limit that operations are held against, peer = what others would have to compute, or absent,
--               args = [{ name, type, access, bytes, cold = comes from memory, never from a cache, data = [s32] or absent }],
--               candidates = [{ kernel, settings }], unbuilt = [{ label, why }] }]

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

-- The arguments, and the bytes of all.
local function describe_args(record, sizes, data)
  local list, moved = { list = true }, 0
  for i, d in ipairs(record.args) do
    local bytes = blade.bytes(d, sizes)
    list[i] = { name = d.name, type = d.elem, access = d.access, bytes = bytes, cold = is_cold(d) }
    if data and data[d.name] then
      local values = { list = true }
      for n = 1, bytes // bytes_of(d.elem) do values[n] = data[d.name](n - 1) end
      list[i].data = values
    end
    moved = moved + bytes * (d.access == "inout" and 2 or 1)
  end
  return list, moved
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

-- w = { name, sizes, bucket, data, operations, peak, peer }
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

local function add_matmuls()
  for _, weights in ipairs(formats) do
    for _, o in ipairs(operators_of(weights).matmul) do
      local p, size, tune = o.p, o.p.over or "tokens", operators.matmul.tune
      for _, rows in ipairs(not p.over and (quick and { 1, 5 } or { 1, 16, 64, 512, 4096 }) or {}) do
        local sizes = { [size] = rows }
        add(o.sch, p, { name = ("matmul %s, %d x %d%s, %d rows"):format(p.w, p.k, p.n, p.act and " x 2" or "", rows),
          bucket = rows <= 1 and 1 or rows <= 32 and 32 or 0, sizes = sizes, operations = tune.operations(p, sizes), peak = tune.peak(p),
          peer = { kind = "matmul", format = p.w, m = rows, n = p.n * (p.act and 2 or 1), k = p.k } })
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
  local tune = operators.attention.tune
  add(sch, p, { name = ("%s, %d heads on %d, %d x %d tokens at %d"):format(what, p.heads, p.kv_heads, seqs, each, context),
    sizes = sizes, data = data, operations = tune.operations(p, sizes, data), peak = tune.peak(p),
    peer = { kind = "attention", heads = p.heads, kv_heads = p.kv_heads, head_dim = p.head_dim, seqs = seqs, tokens = each,
             context = context } })
end

local function add_attentions()
  for _, o in ipairs(operators_of("bf16").attention) do
    if o.p.tile == 1 then
      local p = {}
      for key, value in pairs(o.p) do p[key] = value end
      p.heads = 8 * p.kv_heads
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
                peak = c.w.peak, peer = c.w.peer, unbuilt = c.unbuilt, candidates = { list = true }, args = { list = true } }
    for _, record in ipairs(c.candidates) do
      if compiled(record.index) then
        table.insert(d.candidates, { kernel = place(record), settings = canonical(record.s):sub(2, -2) })
      else
        table.insert(d.unbuilt, { label = record.label, why = given.failures[tostring(record.index)] })
      end
    end
    if c.candidates[1] then d.args, d.moved = describe_args(c.candidates[1], c.w.sizes, c.w.data) end
    described[i] = d
  end
  local fields = plain_plan(list, given.code)
  fields.cases, fields.limits = described, limit_list
  return json_encode(fields)
end
