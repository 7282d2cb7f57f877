-- attention.lua - a block is one tile of tokens for one KV head: R = tokens * group query rows share every page read.
-- Scores and outputs are gemms on the packed pages; the running maximum rescales only when it moved.
local LOWEST = -1e30 -- below any score, yet finite: no NaN from rows that see nothing yet

-- Rows of f32 as s8 with a scale and a sum a row: value(c, n) gives columns c .. c + n - 1 of R rows, put(c, q) stores
-- them rounded. Returns scale f32 and sum s32 [R,1].
local function rounded_rows(k, R, columns, value, put)
  local highest, sum = k:frag("f32", R, 16):set(0), k:frag("s32", R, 16):set(0)
  for c = 0, columns - 1, 16 do highest:set(highest:max(value(c, 16):abs())) end
  local top = highest:highest()
  local inverse = k:select(top:gt(0), k:const("f32", 127) / top, 0.0)
  for c = 0, columns - 1, 16 do
    local q = (value(c, 16) * inverse):cast("s8")
    put(c, q)
    sum:set(sum + q:cast("s32"))
  end
  return top / 127, sum:sum()
end

return schedule "attention" {
  -- strip: output columns accumulated at once; ahead: fetch the next page while this one is used
  -- unroll: lines of a page side by side
  settings = { strip = { 32, 16, 64 }, ahead = { true, false }, unroll = { 4, 1, 2, 8 } },
  default = function(p) return { strip = p.tile * p.heads // p.kv_heads <= 5 and 64 or 32, ahead = p.tile == 1 } end,
} (function(k, a, p, s)
  local G, D, P, T = p.heads // p.kv_heads, p.head_dim, p.page, p.tile
  local R, W, int8 = G * T, round_up(D, 16), p.kv == "s8"
  local kind = int8 and "s8" or query_type(p.kv)
  k:tiles(p.tiles, p.kv_heads)
  local tile, head = k:block(0), k:block(1)
  local first, seq = k:load(a.tiles, { tile, 0 }), k:load(a.tiles, { tile, 2 })
  local last = first + k:load(a.tiles, { tile, 1 }) - 1

  -- the tile's queries and positions; rows past its end repeat the last token and compute the same bits again
  local q, at = k:shared(kind, { R, D }), k:shared("s32", { R, 1 })
  local q_scale, q_sum = int8 and k:shared("f32", { R, 1 }), int8 and k:shared("s32", { R, 1 })
  local token = {}
  for t = 0, T - 1 do
    token[t] = t == 0 and first or (first + t):min(last)
    local function query(c, n) return k:load(a.q, { token[t], head * G, c }, G, n) end
    if int8 then
      local scale, sum = rounded_rows(k, G, D, query, function(c, v) k:store(q, { t * G, c }, v) end)
      k:store(q_scale, { t * G, 0 }, scale)
      k:store(q_sum, { t * G, 0 }, sum)
    else
      each_columns(D, function(c, n) k:store(q, { t * G, c }, query(c, n)) end)
    end
    k:store(at, { t * G, 0 }, k:load(a.positions, { token[t] }), { rows = G })
  end
  local position = k:load(at, { 0, 0 }, R, 1)
  local low, high = k:load(a.positions, { first }):cast("s64"), k:load(a.positions, { last }):cast("s64")
  local start = p.window and (low - (p.window - 1)):max(0) // P or k:const("s64", 0) -- first page anyone sees
  local pages, per_segment = high // P + 1, p.segment // P

  local top, sum, out = k:frag("f32", R, 1), k:frag("f32", R, 16), k:shared("f32", { R, W })
  local Top, Sum, Out = k:frag("f32", R, 1):set(LOWEST), k:frag("f32", R, 16):set(0), k:shared("f32", { R, W })
  local weights = k:shared(kind, { R, P })
  local function columns(fn) for c = 0, W - 1, math.min(s.strip, W) do fn(c, math.min(s.strip, W - c)) end end
  columns(function(c, n) k:store(Out, { 0, c }, 0, { rows = R, cols = n }) end)

  k:range(start // per_segment, (pages + per_segment - 1) // per_segment, 1, function(segment)
    top:set(LOWEST)
    sum:set(0)
    columns(function(c, n) k:store(out, { 0, c }, 0, { rows = R, cols = n }) end)
    k:range((segment * per_segment):max(start), ((segment + 1) * per_segment):min(pages), 1, function(i)
      local page, base = k:load(a.block_table, { seq, i }), i * P
      local next = s.ahead and k:load(a.block_table, { seq, (i + 1):min(pages - 1) })
      local score = k:frag("f32", R, P, "acc")
      local dot = int8 and k:frag("s32", R, P, "acc"):set(k:load(q_sum, { 0, 0 }, R, 1) * -128) or score:set(0)
      k:gemm(dot, k:view(q, { 0, 0 }, R, D), k:view(a.k_pages, { page, head, 0, 0 }, D, P), s.unroll,
             next and k:view(a.k_pages, { next, head, 0, 0 }, 1, 16), P // 16)
      if int8 then score:set(dot:f32() * k:load(q_scale, { 0, 0 }, R, 1) * k:load(a.k_scales, { page, head, 0 }, 1, P)) end
      local partly = (base + (P - 1)):gt(low)
      if p.window then partly = partly | base:le(high - p.window) end
      k:when(partly, function()
        local here = k:col(P) + base:cast("s32")
        local seen = here:le(position)
        if p.window then seen = seen & here:gt(position - p.window) end
        score:set(k:select(seen, score, -math.huge))
      end)
      local highest = score:highest()
      k:when((highest - top):reduce("max", "rows"):gt(0), function()
        local new = top:max(highest)
        local shrink = (top - new):exp()
        top:set(new)
        sum:set(sum * shrink)
        columns(function(c, n) k:store(out, { 0, c }, k:load(out, { 0, c }, R, n) * shrink) end)
      end)
      local weight = (score - top):exp()
      for c = 0, P - 1, 16 do sum:set(sum + weight:slice(0, R, c, 16)) end
      local unit, start_at = 1, 0 -- of the product with v
      if int8 then
        local v = weight * k:load(a.v_scales, { page, head, 0 }, 1, P)
        local step, total = rounded_rows(k, R, P, function(c, n) return v:slice(0, R, c, n) end,
                                         function(c, w) k:store(weights, { 0, c }, w) end)
        unit, start_at = step, total * -128
      else
        k:store(weights, { 0, 0 }, weight:cast(kind))
      end
      columns(function(c, n)
        local acc = k:frag(int8 and "s32" or "f32", R, n, "acc"):set(int8 and start_at or k:load(out, { 0, c }, R, n))
        k:gemm(acc, k:view(weights, { 0, 0 }, R, P), k:view(a.v_pages, { page, head, 0, c }, P, n), s.unroll,
               next and k:view(a.v_pages, { next, head, 0, c }, 1, 16), n // 16)
        k:store(out, { 0, c }, int8 and k:fma(acc:f32(), unit, k:load(out, { 0, c }, R, n)) or acc)
      end)
    end)
    local new = Top:max(top)
    local old_part, part = (Top - new):exp(), (top - new):exp()
    Top:set(new)
    Sum:set(Sum * old_part + sum * part)
    columns(function(c, n) k:store(Out, { 0, c }, k:load(Out, { 0, c }, R, n) * old_part + k:load(out, { 0, c }, R, n) * part) end)
  end)

  local scale = 1.0 / Sum:sum()
  for r = 0, R - 1 do
    each_columns(D, function(c, n)
      local y = k:load(Out, { r, c }, 1, n) * scale:slice(r, 1, 0, 1)
      k:store(a.y, { token[r // G], (head * G + r % G) * D + c }, y:cast(p.out or "f32"))
    end)
  end
end)
