-- attention.lua - a block is one tile of tokens for one KV head: R = group * tokens query rows, those of a head side by side,
-- 16 or more a warp, share every page. Pages come through on-chip memory a few turns ahead; scores, weights and outputs stay
-- in the registers of the warp that has the row, so that weights are factors of the second product as they lie.
local LOWEST = -1e30 -- below any score, yet finite: no NaN from rows that see nothing yet
local TURN = 2       -- pages that share a step of the online softmax

local function rows_of(p) return p.heads // p.kv_heads * p.tile end
local function row_warps(p, most) return power_of_two_up(math.min(most, ceil_div(rows_of(p), 16))) end

-- Elements from row to row of a tile of n columns that warps write as accumulators lie: no two threads in one bank.
local function staged_pitch(n, elem)
  if elem == "f32" then return n + 4 end
  return n % 64 == 0 and n + 32 or n + 8
end

return schedule "attention" {
  -- parked: outputs of whole segments are kept on chip instead of in registers
  settings = { warps = { 4, 2, 1, 8 }, stages = { 2, 3, 4, 1 }, parked = { false, true } },
  fits = kv_in_runs,
  default = function(p)
    return { warps = 4, stages = target.gpu.stages > 1 and 2 or 1, parked = target.gpu.nvidia and p.head_dim > 64 }
  end,
  sensible = function(p, s) return s.warps == 1 or s.warps * 8 < rows_of(p) end,
} (function(k, a, p, s)
  local G, D, P, T = p.heads // p.kv_heads, p.head_dim, p.page, p.tile
  local R, W, B = G * T, round_up(D, 16), TURN * P
  k:warps(row_warps(p, s.warps), 1)
  k:tiles(p.tiles, p.kv_heads)
  local tile, head = k:block(0), k:block(1)
  local first, count, seq = k:load(a.tiles, { tile, 0 }), k:load(a.tiles, { tile, 1 }), k:load(a.tiles, { tile, 2 })
  local low = k:load(a.positions, { first })
  local high = low + (count - 1) -- the tokens of a tile follow one another
  local position = T == 1 and low or low + k:row(R) % T -- rows past the tile's end see what they like; nobody sees them

  -- queries: where a warp's lanes hold runs of whole 32 elements, in registers
  local q
  local in_registers = D % 32 == 0 or D > 32
  if T == 1 then
    q = in_registers and k:load(a.q, { first, head * G, 0 }, G, D) or k:view(a.q, { first, head * G, 0 }, G, D)
  else
    local queries = k:shared("bf16", { R, D })
    for g = 0, G - 1 do k:store(queries, { g * T, 0 }, k:load(a.q, { first, (head * G + g) * D }, T, D)) end
    q = in_registers and k:load(queries, { 0, 0 }, R, D) or k:view(queries, { 0, 0 }, R, D)
  end

  -- the outputs in strips of columns: of the segment (out), and of all before it (Out)
  local strips, out, Out, parked = {}, {}, {}, s.parked and k:shared("f32", { R, W }, { pitch = staged_pitch(W, "f32") })
  for c = 0, W - 1, 64 do strips[#strips + 1] = { c, math.min(64, W - c) } end
  local function segments(c, n) -- outputs of the segments before, and what changes them
    if parked then return k:load(parked, { 0, c }, R, n), function(v) k:store(parked, { 0, c }, v, { rows = R, cols = n }) end end
    Out[c] = Out[c] or k:frag("f32", R, n, "acc")
    return Out[c], function(v) Out[c]:set(v) end
  end
  local elem = p.out or "f32"
  local staged = k:shared(elem, { R, math.min(64, W) }, { pitch = staged_pitch(math.min(64, W), elem) })
  local top, Top = k:frag("f32", R, 1):set(LOWEST), k:frag("f32", R, 1):set(LOWEST)
  local sum, Sum = k:frag("f32", R, P):set(0), k:frag("f32", R, 1):set(0)
  for _, strip in ipairs(strips) do
    local c, n = table.unpack(strip)
    out[c] = k:frag("f32", R, n, "acc"):set(0)
    local _, set = segments(c, n)
    set(k:const("f32", 0))
  end

  -- A segment is over: its sums join those before it, and the next one begins.
  local function merge()
    local new = Top:max(top)
    local old_part, part = (Top - new):exp(), (top - new):exp()
    Top:set(new)
    Sum:set(k:fma(Sum, old_part, sum:sum() * part))
    for _, strip in ipairs(strips) do
      local c, n = table.unpack(strip)
      local before, set = segments(c, n)
      set(k:fma(before, old_part, out[c] * part))
      out[c]:set(0)
    end
    top:set(LOWEST)
    sum:set(0)
  end

  local keys, values = k:shared("bf16", { B, D }), k:shared("bf16", { B, W }, { panel = P, wide = 16 })
  local start = p.window and (low - (p.window - 1)):max(0):cast("s64") // B or k:const("s64", 0) -- first turn anyone sees
  local last_page, turns, per_segment = high:cast("s64") // P, high:cast("s64") // B + 1, p.segment // B
  k:pipelined(start, turns, 1, { stages = s.stages }, function(i)
    for j = 0, TURN - 1 do
      local page = k:load(a.block_table, { seq, (i * TURN + j):min(last_page) })
      k:copy(k:view(keys, { j * P, 0 }, P, D), k:view(a.k_pages, { page, head, 0, 0 }, P, D))
      k:copy(k:view(values, { j * P, 0 }, P, W), k:view(a.v_pages, { page, head, 0, 0 }, P, W))
    end
    local base, score = (i * B):cast("s32"), {}
    for j = 0, TURN - 1 do
      score[j] = k:frag("f32", R, P, "acc"):set(0)
      k:gemm(score[j], q, k:view(keys, { j * P, 0 }, D, P, { transposed = true }))
    end
    local partly = (base + (B - 1)):gt(low)
    if p.window then partly = partly | base:le(high - p.window) end
    k:when(partly, function()
      for j = 0, TURN - 1 do
        local here = k:col(P) + (base + j * P)
        local seen = here:le(position)
        if p.window then seen = seen & here:gt(position - p.window) end
        score[j]:set(k:select(seen, score[j], -math.huge))
      end
    end)
    local highest = score[0]
    for j = 1, TURN - 1 do highest = highest:max(score[j]) end
    local new = top:max(highest:highest())
    local shrink, weights = (top - new):exp(), {}
    top:set(new)
    for j = 0, TURN - 1 do weights[j] = (score[j] - new):exp() end
    local total = weights[0]
    for j = 1, TURN - 1 do total = total + weights[j] end
    sum:set(k:fma(sum, shrink, total))
    for _, strip in ipairs(strips) do
      local c, n = table.unpack(strip)
      out[c]:set(out[c] * shrink)
      for j = 0, TURN - 1 do k:gemm(out[c], weights[j]:cast("bf16"), k:view(values, { j * P, c }, P, n)) end
    end
    k:when(((i + 1) % per_segment):eq(0) | (i + 1):eq(turns), merge)
  end)

  -- through on-chip memory, so that a token's columns are stored side by side
  local scale = 1.0 / Sum
  for _, strip in ipairs(strips) do
    local c, n = table.unpack(strip)
    k:store(staged, { 0, 0 }, ((segments(c, n)) * scale):cast(elem))
    n = math.min(n, D - c)
    local function store(row, t, rows)
      for g = 0, G - 1 do k:store(a.y, { row, (head * G + g) * D + c }, k:load(staged, { t + g * T, 0 }, rows, n)) end
    end
    if T == 1 then
      store(first, 0, 1)
    else
      k:when(count:eq(T), function() store(first, 0, T) end,
             function() k:range(0, count:cast("s64"), 1, function(t) store(first + t:cast("s32"), t, 1) end) end)
    end
  end
end)
