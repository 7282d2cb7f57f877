-- attention.lua - softmax(q k^T) v over a paged KV cache, causal, grouped queries, optional sliding window. One
-- operator for prefill and decode: a tile is up to p.tile consecutive tokens of one sequence (1 for decode). q is
-- already scaled.
-- q [tokens, heads, head_dim]; k pages [kv_pages, kv_heads, head_dim, page] and v pages [kv_pages, kv_heads, page,
-- head_dim] packed for gemm (kv_arguments); tiles[t] = {first token row, token count, sequence row, 0};
-- block_table[sequence, i] = page of positions i * page ..; positions[t] = position of a token row; the window counts the token itself (0: no window).
-- Numerics: online softmax over pages in order inside segments of p.segment positions, segments merged in order, so
-- that a row's bits depend neither on the tile it is in nor on how segments are spread over blocks. Sources: Milakov &
-- Gimelshein 2018 (online softmax); Dao 2023, FlashAttention-2.

-- Pages of s8 (p.kv) hold v = (stored - 128) * scale, stored as u8, with a scale for each token of each head: k_scales,
-- v_scales [kv_pages, kv_heads, page]. q and the weights of a page are rounded to s8 with a scale a row, so that both
-- products are integer ones. Their sums are exact; what is rounded depends on the row and the page only.
local kv_units = { f32 = 1, f16 = 2, bf16 = 2, s8 = 4 }
function query_type(kv) return kv == "bf16" and "bf16" or "f32" end

-- On GPUs pages of bf16 lie as matrix units read them, both products in runs of their sum: a token's k is a row of the
-- page ([page, head_dim]), and of v every column is a run of the page's tokens (a panel whose unit is the page).
function kv_in_runs(p) return target.gpu ~= nil and p.kv == "bf16" end

-- Coordinates of k's element d of the token at `at` inside a page of a head.
function k_place(p, d, at)
  if kv_in_runs(p) then return at, d end
  return d, at
end

-- Declarations of the pages: k, v, and where there are scales those of k and v.
function kv_arguments(p, access)
  local panel, elem = { panel = kv_units[p.kv] }, p.kv == "s8" and "u8" or p.kv
  local list = {
    argument("k_pages", elem, { "kv_pages", p.kv_heads, round_up(p.head_dim, kv_units[p.kv]), p.page }, access, panel),
    argument("v_pages", elem, { "kv_pages", p.kv_heads, p.page, round_up(p.head_dim, 16) }, access, panel),
  }
  if kv_in_runs(p) then
    list[1] = argument("k_pages", elem, { "kv_pages", p.kv_heads, p.page, p.head_dim }, access)
    list[2].panel = p.page
  end
  for i, name in ipairs(p.kv == "s8" and { "k_scales", "v_scales" } or {}) do
    list[2 + i] = argument(name, "f32", { "kv_pages", p.kv_heads, p.page }, access)
  end
  return list
end

-- Value d of the token at `at` of a page, by the references.
local function k_value(p, t, page, head, d, at)
  local x = t.k_pages:get(page, head, k_place(p, d, at))
  return p.kv == "s8" and (x - 128) * t.k_scales:get(page, head, at) or x
end

local function v_value(p, t, page, head, at, d)
  local x = t.v_pages:get(page, head, at, d)
  return p.kv == "s8" and (x - 128) * t.v_scales:get(page, head, at) or x
end

-- q of a single token is a tile of heads; of several, on GPUs, tiles of tokens, a head beside the other.
local function flat_queries(p) return kv_in_runs(p) and p.tile > 1 end

local function query_argument(p)
  if flat_queries(p) then return argument("q", "bf16", { "tokens", p.heads * p.head_dim }) end
  return argument("q", query_type(p.kv), { "tokens", p.heads, p.head_dim })
end

local function q_value(p, t, row, head, d)
  if flat_queries(p) then return t.q:get(row, head * p.head_dim + d) end
  return t.q:get(row, head, d)
end

-- Long sequences, on GPUs (p.split: rooms for segments): while segments of all tiles fit there, each is a block's own; it
-- leaves partial [split, heads, head_dim], sums of weights times v, and stats [split, heads, 2], the highest score and the
-- sum of weights, in room tile * attention_segments + segment, for attention_combine. Else y is complete.
function attention_segments(k, p)
  local per = p.segment // p.page
  return (k:size("table_width") + (per - 1)) // per
end

function attention_spread(k, p) return (k:size(p.tiles) * attention_segments(k, p)):le(p.split) end

function attention_rooms(p, access)
  return { argument("partial", "f32", { p.split, p.heads, round_up(p.head_dim, 16) }, access),
           argument("stats", "f32", { p.split, p.heads, 2 }, access) }
end

local function are_spread(p, sizes)
  local segments = ceil_div(sizes.table_width * p.page, p.segment)
  return kv_in_runs(p) and p.split and sizes[p.tiles] * segments <= p.split, segments
end

-- Optional, per model: p.softcap bounds scores to softcap * tanh(score / softcap) (Gemma 2); p.alibi adds slopes[head] *
-- (key's position - query's) to them (Press et al. 2021); p.sinks: sinks[head] is a score more, of no value (Xiao et al.
-- 2023).
local function score_arguments(p)
  local list = {}
  if (p.softcap or p.alibi or p.sinks) and not kv_in_runs(p) then
    error(("attention: softcap, ALiBi and sinks are for GPUs with pages of bf16, not for %s on %s"):format(p.kv, target.name), 0)
  end
  if p.alibi then list[1] = argument("slopes", "f32", { p.heads }) end
  if p.sinks then list[#list + 1] = argument("sinks", "f32", { p.heads }) end
  return list
end

-- A row of a head over positions from .. to: highest score, sum of weights, and sums of weights times v.
local function attend(p, t, row, head, seq, from, to)
  local score, top, kv, position = {}, -math.huge, head // (p.heads // p.kv_heads), t.positions:get(row)
  local function page_of(i) return math.tointeger(t.block_table:get(seq, i // p.page)) end
  for i = from, to do
    local page, sum = page_of(i), 0
    for d = 0, p.head_dim - 1 do sum = sum + q_value(p, t, row, head, d) * k_value(p, t, page, kv, d, i % p.page) end
    if p.softcap then sum = p.softcap * (1 - 2 / (math.exp(2 * sum / p.softcap) + 1)) end
    if p.alibi then sum = sum + t.slopes:get(head) * (i - position) end
    score[i], top = sum, math.max(top, sum)
  end
  local total, out = 0, {}
  for i = from, to do
    score[i] = math.exp(score[i] - top)
    total = total + score[i]
  end
  for d = 0, p.head_dim - 1 do
    local sum = 0
    for i = from, to do sum = sum + score[i] * v_value(p, t, page_of(i), kv, i % p.page, d) end
    out[d] = sum
  end
  return top, total, out
end

local function first_seen(p, position)
  return p.window and p.window > 0 and math.max(0, position - p.window + 1) or 0
end

local function reference_spread(p, t, sizes, segments)
  for tile = 0, sizes[p.tiles] - 1 do
    local row, seq = math.tointeger(t.tiles:get(tile, 0)), math.tointeger(t.tiles:get(tile, 2))
    local position = math.tointeger(t.positions:get(row))
    local start = first_seen(p, position)
    for segment = start // p.segment, position // p.segment do
      for head = 0, p.heads - 1 do
        local room, from, to = tile * segments + segment, segment * p.segment, (segment + 1) * p.segment - 1
        local top, total, out = attend(p, t, row, head, seq, math.max(start, from), math.min(position, to))
        t.stats:set(top, room, head, 0)
        t.stats:set(total, room, head, 1)
        for d = 0, p.head_dim - 1 do t.partial:set(out[d], room, head, d) end
      end
    end
  end
end

local cases = {
  { p = { heads = 4, kv_heads = 2, head_dim = 64, page = 32, segment = 512, kv = "f32", tile = 1, tiles = "decode_tiles" },
    sizes = { tokens = 3, seqs = 3, decode_tiles = 3, table_width = 4, kv_pages = 12 } },
  { p = { heads = 8, kv_heads = 4, head_dim = 8, page = 32, segment = 512, kv = "f32", tile = 6, tiles = "prefill_tiles" },
    sizes = { tokens = 15, seqs = 2, prefill_tiles = 3, table_width = 3, kv_pages = 6 } },
  { p = { heads = 4, kv_heads = 1, head_dim = 64, page = 32, segment = 64, kv = "bf16", tile = 3, tiles = "prefill_tiles" },
    sizes = { tokens = 8, seqs = 1, prefill_tiles = 3, table_width = 7, kv_pages = 8 } },
  { p = { heads = 2, kv_heads = 2, head_dim = 32, page = 32, segment = 64, kv = "f32", tile = 4, tiles = "prefill_tiles", window = 40 },
    sizes = { tokens = 10, seqs = 1, prefill_tiles = 3, table_width = 6, kv_pages = 6 } },
  { p = { heads = 6, kv_heads = 2, head_dim = 24, page = 32, segment = 512, kv = "bf16", tile = 2, tiles = "prefill_tiles" },
    sizes = { tokens = 3, seqs = 1, prefill_tiles = 2, table_width = 2, kv_pages = 3 } },
  { p = { heads = 8, kv_heads = 1, head_dim = 128, page = 32, segment = 64, kv = "bf16", tile = 1, tiles = "decode_tiles", out = "bf16" },
    sizes = { tokens = 2, seqs = 2, decode_tiles = 2, table_width = 6, kv_pages = 12 } },
  { p = { heads = 8, kv_heads = 2, head_dim = 64, page = 32, segment = 64, kv = "bf16", tile = 1, tiles = "decode_tiles", split = 12 },
    sizes = { tokens = 3, seqs = 3, decode_tiles = 3, table_width = 7, kv_pages = 21 } },
  { p = { heads = 2, kv_heads = 1, head_dim = 128, page = 32, segment = 64, kv = "bf16", tile = 1, tiles = "decode_tiles", split = 8,
          window = 70 }, sizes = { tokens = 2, seqs = 2, decode_tiles = 2, table_width = 8, kv_pages = 16 } },
  { p = { heads = 4, kv_heads = 2, head_dim = 32, page = 32, segment = 64, kv = "bf16", tile = 1, tiles = "decode_tiles", split = 3 },
    sizes = { tokens = 2, seqs = 2, decode_tiles = 2, table_width = 4, kv_pages = 8 } },
  { p = { heads = 4, kv_heads = 1, head_dim = 80, page = 32, segment = 64, kv = "bf16", tile = 8, tiles = "prefill_tiles", window = 50 },
    sizes = { tokens = 13, seqs = 1, prefill_tiles = 2, table_width = 4, kv_pages = 4 } },
  { p = { heads = 2, kv_heads = 1, head_dim = 256, page = 32, segment = 64, kv = "bf16", tile = 16, tiles = "prefill_tiles", out = "bf16" },
    sizes = { tokens = 16, seqs = 1, prefill_tiles = 1, table_width = 3, kv_pages = 4 } },
  { p = { heads = 7, kv_heads = 1, head_dim = 128, page = 32, segment = 512, kv = "f16", tile = 1, tiles = "decode_tiles", out = "bf16" },
    sizes = { tokens = 2, seqs = 2, decode_tiles = 2, table_width = 2, kv_pages = 5 } },
  { p = { heads = 4, kv_heads = 2, head_dim = 64, page = 32, segment = 64, kv = "s8", tile = 1, tiles = "decode_tiles" },
    sizes = { tokens = 3, seqs = 3, decode_tiles = 3, table_width = 4, kv_pages = 12 } },
  { p = { heads = 6, kv_heads = 2, head_dim = 48, page = 32, segment = 512, kv = "s8", tile = 4, tiles = "prefill_tiles", window = 40 },
    sizes = { tokens = 10, seqs = 1, prefill_tiles = 3, table_width = 6, kv_pages = 6 } },
}
local function add_case(p, sizes)
  p.page, p.segment, p.kv = 32, 64, "bf16"
  cases[#cases + 1] = { p = p, sizes = sizes }
end

if target.gpu then -- what host's schedule does not know
  add_case({ heads = 4, kv_heads = 2, head_dim = 64, tile = 4, tiles = "prefill_tiles", softcap = 6.0, sinks = true },
           { tokens = 7, seqs = 1, prefill_tiles = 2, table_width = 4, kv_pages = 4 })
  add_case({ heads = 4, kv_heads = 1, head_dim = 64, tile = 8, tiles = "prefill_tiles", alibi = true, window = 60 },
           { tokens = 9, seqs = 1, prefill_tiles = 2, table_width = 4, kv_pages = 4 })
  add_case({ heads = 4, kv_heads = 2, head_dim = 64, tile = 1, tiles = "decode_tiles", softcap = 6.0, alibi = true, sinks = true },
           { tokens = 2, seqs = 2, decode_tiles = 2, table_width = 3, kv_pages = 6 })
  add_case({ heads = 4, kv_heads = 2, head_dim = 64, tile = 1, tiles = "decode_tiles", softcap = 6.0, sinks = true, split = 4 },
           { tokens = 2, seqs = 2, decode_tiles = 2, table_width = 3, kv_pages = 6 })
end

return operator "attention" {
  doc = "causal attention over a paged KV cache, prefill and decode",
  args = function(p)
    local list = { query_argument(p) }
    for _, d in ipairs(kv_arguments(p)) do list[#list + 1] = d end
    for _, d in ipairs {
      argument("positions", "s32", { "tokens" }), argument("tiles", "s32", { p.tiles, 4 }),
      argument("block_table", "s32", { "seqs", "table_width" }),
    } do list[#list + 1] = d end
    for _, d in ipairs(score_arguments(p)) do list[#list + 1] = d end
    list[#list + 1] = activation("y", "tokens", p.heads * p.head_dim, p.out or "f32", "out")
    for _, d in ipairs(kv_in_runs(p) and p.split and attention_rooms(p, "out") or {}) do list[#list + 1] = d end
    return list
  end,
  numerics = function(p) return { tree = 16, segment = p.segment } end,
  inputs = function(p, t, sizes, random)
    if p.kv == "s8" then
      t.q:fill(function() return random.normal() * p.head_dim ^ -0.5 end)
      t.k_scales:fill(function() return random.uniform(0.005, 0.015) end)
      t.v_scales:fill(function() return random.uniform(0.005, 0.015) end)
    end
    if p.sinks then t.sinks:fill(function() return random.uniform(5, 15) end) end
    if p.alibi then t.slopes:fill(function(head) return 2.0 ^ -(head + 1) end) end
    -- sequences of decreasing length, pages in a shuffled order, tokens cut into tiles
    t.block_table:fill(function(s, i) return (s * sizes.table_width + i) * 7 % sizes.kv_pages end)
    t.positions:fill(function(row) return 0 end)
    t.tiles:fill(function() return 0 end)
    local row, last = 0, sizes.table_width * p.page - 1
    for tile = 0, sizes[p.tiles] - 1 do
      local count = math.min(p.tile, sizes.tokens - row)
      local seq = tile % sizes.seqs
      local first = math.max(0, last - 37 * tile - count)
      t.tiles:set(row, tile, 0)
      t.tiles:set(count, tile, 1)
      t.tiles:set(seq, tile, 2)
      for i = 0, count - 1 do t.positions:set(first + i, row + i) end
      row = row + count
    end
  end,
  reference = function(p, t, sizes)
    local spread, segments = are_spread(p, sizes)
    if spread then return reference_spread(p, t, sizes, segments) end
    for tile = 0, sizes[p.tiles] - 1 do
      local first, count, seq = t.tiles:get(tile, 0), t.tiles:get(tile, 1), math.tointeger(t.tiles:get(tile, 2))
      for row = math.tointeger(first), math.tointeger(first + count - 1) do
        local position = math.tointeger(t.positions:get(row))
        for head = 0, p.heads - 1 do
          local top, total, out = attend(p, t, row, head, seq, first_seen(p, position), position)
          if p.sinks then total = total + math.exp(t.sinks:get(head) - top) end
          for d = 0, p.head_dim - 1 do t.y:set(out[d] / total, row, head * p.head_dim + d) end
        end
      end
    end
  end,
  tune = {
    -- decoding: many short sequences, one long one; prefill: the first and a later piece of a prompt
    workloads = function(p)
      local function call(tokens, seqs, tile, context)
        local tiles, width = seqs * ceil_div(tokens // seqs, tile), context // p.page
        return { name = ("%d x %d tokens at %d"):format(seqs, tokens // seqs, context),
          sizes = { tokens = tokens, seqs = seqs, [p.tiles] = tiles, table_width = width, kv_pages = seqs * width },
          typical = { positions = context - tokens // seqs // 2, tiles = tile },
          data = {
            positions = function(row) return context - tokens // seqs + row % (tokens // seqs) end,
            block_table = function(i) return i * 7 % (seqs * width) end,
            tiles = function(i)
              local t, per = i // 4, tiles // seqs
              local first = t % per * tile
              return ({ t // per * (tokens // seqs) + first, math.min(tile, tokens // seqs - first), t // per, 0 })[i % 4 + 1]
            end,
          } }
      end
      if p.tile == 1 then return { call(16, 16, 1, 512), call(1, 1, 1, 2048) } end
      return { call(256, 1, p.tile, 256), call(256, 1, p.tile, 1024) }
    end,
    peak = function(p) return ({ bf16 = "bf16", s8 = "int8" })[p.kv] or "f32" end,
    operations = function(p, sizes, data)
      local seen = 0
      for row = 0, sizes.tokens - 1 do seen = seen + data.positions(row) + 1 end
      return 4 * p.heads * p.head_dim * seen
    end,
    reduced = function(p)
      local small, pages = {}, 5
      for key, value in pairs(p) do small[key] = value end
      small.kv_heads, small.heads, small.segment = 1, p.heads // p.kv_heads, 2 * p.page
      return { p = small, sizes = { tokens = 2 * p.tile + 1, seqs = 1, [p.tiles] = 3, table_width = pages, kv_pages = pages } }
    end,
  },
  tolerance = function(p) return p.kv == "s8" and 1.5e-2 or (p.kv == "bf16" or p.out == "bf16") and 6e-3 or 5e-6 end,
  cases = cases,
}
