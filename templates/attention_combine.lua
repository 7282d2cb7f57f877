-- attention_combine.lua - merges what blocks of attention left of their segments (p.split, see attention.lua), in the order
-- of the segments, as a block that has them all does: y = sum of partial * exp(top - Top) / sum of sum * exp(top - Top).
return operator "attention_combine" {
  doc = "merges the segments of attention that blocks computed apart",
  args = function(p)
    local list = attention_rooms(p)
    if p.sinks then list[3] = argument("sinks", "f32", { p.heads }) end
    for _, d in ipairs { argument("positions", "s32", { "tokens" }), argument("tiles", "s32", { p.tiles, 4 }),
                         activation("y", "tokens", p.heads * p.head_dim, p.out or "f32", "out") } do list[#list + 1] = d end
    return list
  end,
  numerics = function(p) return { tree = 16, segment = p.segment } end,
  inputs = function(p, t, sizes, random)
    t.stats:fill(function(_, _, i) return i == 0 and random.normal() or random.uniform(1, 50) end)
    t.positions:fill(function(row) return math.max(0, sizes.table_width * p.page - 1 - 70 * row) end)
    t.tiles:fill(function(tile, i) return ({ sizes.tokens - 1 - tile, 1, tile, 0 })[i + 1] end)
  end,
  reference = function(p, t, sizes)
    local segments = ceil_div(sizes.table_width * p.page, p.segment)
    if sizes[p.tiles] * segments > p.split then return end
    for tile = 0, sizes[p.tiles] - 1 do
      local row = math.tointeger(t.tiles:get(tile, 0))
      local position = math.tointeger(t.positions:get(row))
      local from = p.window and math.max(0, position - p.window + 1) // p.segment or 0
      for head = 0, p.heads - 1 do
        local top, total = -math.huge, 0
        local function each(fn)
          for s = from, position // p.segment do fn(tile * segments + s) end
        end
        each(function(room) top = math.max(top, t.stats:get(room, head, 0)) end)
        each(function(room) total = total + t.stats:get(room, head, 1) * math.exp(t.stats:get(room, head, 0) - top) end)
        if p.sinks then total = total + math.exp(t.sinks:get(head) - top) end
        for d = 0, p.head_dim - 1 do
          local sum = 0
          each(function(room) sum = sum + t.partial:get(room, head, d) * math.exp(t.stats:get(room, head, 0) - top) end)
          t.y:set(sum / total, row, head * p.head_dim + d)
        end
      end
    end
  end,
  tolerance = function(p) return p.out == "bf16" and 5e-3 or 1e-5 end,
  cases = {
    { p = { heads = 4, head_dim = 64, page = 32, segment = 64, split = 12, tiles = "decode_tiles" },
      sizes = { tokens = 3, decode_tiles = 3, table_width = 7 } },
    { p = { heads = 2, head_dim = 80, page = 32, segment = 64, split = 8, tiles = "decode_tiles", out = "bf16", window = 70 },
      sizes = { tokens = 2, decode_tiles = 2, table_width = 8 } },
    { p = { heads = 2, head_dim = 64, page = 32, segment = 64, split = 8, tiles = "decode_tiles", sinks = true },
      sizes = { tokens = 2, decode_tiles = 2, table_width = 8 } },
    { p = { heads = 2, head_dim = 24, page = 32, segment = 64, split = 3, tiles = "decode_tiles" },
      sizes = { tokens = 2, decode_tiles = 2, table_width = 4 } },
  },
}
