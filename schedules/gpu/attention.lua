-- attention.lua - a block is one tile of tokens for one KV head: R = group * tokens query rows, those of a head side by
-- side, 16 or more a warp, share every page. Pages come through on-chip memory a few turns ahead; scores, weights and
-- outputs stay in the registers of the warp that has the row, so that weights are factors of the second product as they
-- lie. Where tiles are few and long (p.split), a block has one segment only, and attention_combine merges them, in the same
-- way as a block does.
local LOWEST = -1e30 -- below any score, yet finite: no NaN from rows that see nothing yet
-- Pages that share a step of the online softmax.
local function turn_pages(p) return p.head_dim <= 64 and 2 or 1 end

local function rows_of(p) return p.heads // p.kv_heads * p.tile end
local function row_warps(p, most) return power_of_two_up(math.min(most, ceil_div(rows_of(p), 16))) end

-- Queries of a head stay in registers where there is room, and where a warp's lanes hold what matrix units take at once.
local function registers_hold(D)
  local last = (D - 1) % 64 + 1
  return D <= (target.gpu.matrix == "wmma" and 32 or 128) and (last % 32 == 0 or last == 16 or last > 32)
end

-- Elements from row to row of a tile of n columns that warps write as accumulators lie: no two threads in one bank.
local function staged_pitch(n, elem)
  if elem == "f32" then return n + 4 end
  return n + 8
end

-- What fits on chip: outputs parked or not, and how many turns ahead.
local function fit(p, s)
  local R, D, W, elem = rows_of(p), p.head_dim, round_up(p.head_dim, 16), p.out or "f32"
  local strip, turn = math.min(64, W), turn_pages(p) * p.page
  local fixed = R * staged_pitch(strip, elem) * bytes_of(elem) + 4096
  if not registers_hold(D) then
    fixed = fixed + R * (D + 64) * 2
  elseif elem ~= "bf16" then
    fixed = fixed + R * (strip + 8) * 2
  end
  local stage, outputs = turn * (D + 64 + W) * 2, R * staged_pitch(W, "f32") * 4
  local parked = s.parked and fixed + stage + outputs <= target.gpu.shared
  local left = target.gpu.shared - fixed - (parked and outputs or 0)
  return parked, math.max(1, math.min(s.stages, left // stage))
end

return schedule "attention" {
  -- parked: outputs of whole segments are kept on chip instead of in registers
  settings = { warps = { 4, 2, 1, 8 }, stages = { 2, 3, 4, 1 }, parked = { false, true } },
  fits = kv_in_runs,
  -- bucket: most rows of a call. Few sequences are few warps: each needs more pages under way.
  default = function(p, bucket)
    local few = p.tile == 1 and bucket and bucket > 0 and bucket <= 4
    return { warps = rows_of(p) > 64 and 8 or 4, stages = target.gpu.stages == 1 and 1 or few and 4 or 2,
             parked = p.head_dim > 64 and target.gpu.matrix ~= "mfma" }
  end,
  sensible = function(p, s) return s.warps == 1 or s.warps * 8 < rows_of(p) end,
} (function(k, a, p, s)
  local G, D, P, T = p.heads // p.kv_heads, p.head_dim, p.page, p.tile
  local R, W, TURN = G * T, round_up(D, 16), turn_pages(p)
  local B = TURN * P
  -- outputs alone are D / 2 registers
  if D >= 128 and target.gpu.matrix ~= "mfma" then k:accepts { "spills", "stack" } end
  local parks, stages = fit(p, s)
  k:warps(row_warps(p, s.warps), 1)
  k:tiles(p.tiles, p.kv_heads, p.split and { size = "table_width", div = p.segment // P } or nil)
  local tile, head = k:block(0), k:block(1)
  local first, count, seq = k:load(a.tiles, { tile, 0 }), k:load(a.tiles, { tile, 1 }), k:load(a.tiles, { tile, 2 })
  local low = k:load(a.positions, { first })
  local high = low + (count - 1) -- the tokens of a tile follow one another
  local position = T == 1 and low or low + k:row(R) % T -- rows past the tile's end see what they like; nobody sees them

  -- the turns of this block: from the first that anyone sees, or those of its segment
  local per_segment, last_page = p.segment // B, high:cast("s64") // P
  local start = p.window and (low - (p.window - 1)):max(0):cast("s64") // B or k:const("s64", 0)
  local stop, spread, segment = high:cast("s64") // B + 1, nil, nil
  if p.split then
    segment, spread = k:block(2), attention_spread(k, p)
    stop = k:select(spread, ((segment + 1) * per_segment):min(stop), k:select(segment:eq(0), stop, k:const("s64", 0)))
    start = k:select(spread, (segment * per_segment):max(start), start)
  end

  -- Strips of columns, and a tile on chip through which they go between memory and the layouts of matrix units.
  local strips, elem, held = {}, p.out or "f32", registers_hold(D)
  for c = 0, W - 1, 64 do strips[#strips + 1] = { c, math.min(64, W - c) } end
  local function tile_of(kind)
    local n = math.min(64, W)
    return k:shared(kind, { R, n }, { pitch = staged_pitch(n, kind) })
  end
  local staged = tile_of(elem)
  local tile_q = not held and k:shared("bf16", { R, D }) or T > 1 and (elem == "bf16" and staged or tile_of("bf16"))
  local parked = parks and k:shared("f32", { R, W }, { pitch = staged_pitch(W, "f32") })
  local keys, values = k:shared("bf16", { B, D }), k:shared("bf16", { B, W }, { panel = P, wide = 16 })
  local ones = k:shared("bf16", { P, 16 }, { panel = P, wide = 16 }) -- weights times these are their sums

  local function of_heads(memory) -- a value a head, for every row
    if G == 1 then return k:load(memory, { head }) end
    return k:gather(memory, { head * G }, T == 1 and k:row(R) or k:row(R) // T)
  end
  local slopes, sinks = p.alibi and of_heads(a.slopes), p.sinks and of_heads(a.sinks)

  local function change_score(score, base)
    if p.softcap then score:set((score / p.softcap):tanh() * p.softcap) end
    if p.alibi then score:set(k:fma((k:col(P) + base - position):f32(), slopes, score)) end
  end

  local function run()
    k:store(ones, { 0, 0 }, 1.0, { rows = P, cols = 16 })
    -- queries: strips in registers, else all of them on chip
    local q = {}
    for _, strip in ipairs(strips) do
      local c, n = strip[1], math.min(strip[2], D - strip[1])
      if T == 1 then
        q[c] = k:load(a.q, { first, head * G, c }, G, n)
        if not held then k:store(tile_q, { 0, c }, q[c]) end
      else
        for g = 0, G - 1 do
          k:store(tile_q, { g * T, held and 0 or c }, k:load(a.q, { first, (head * G + g) * D + c }, T, n))
        end
        if held then q[c] = k:load(tile_q, { 0, 0 }, R, n) end
      end
    end

    -- outputs: of the segment (out), and of all before it (Out)
    local out, Out = {}, {}
    local function segments(c, n) -- outputs of the segments before, and what changes them
      if parked then
        return k:load(parked, { 0, c }, R, n), function(v) k:store(parked, { 0, c }, v, { rows = R, cols = n }) end
      end
      Out[c] = Out[c] or k:frag("f32", R, n, "acc")
      return Out[c], function(v) Out[c]:set(v) end
    end
    local top, Top = k:frag("f32", R, 1):set(LOWEST), k:frag("f32", R, 1):set(LOWEST)
    local sum, Sum = k:frag("f32", R, 16, "acc"):set(0), k:frag("f32", R, 1):set(0) -- every column of sum is the same
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
      Sum:set(k:fma(Sum, old_part, sum:highest() * part))
      for _, strip in ipairs(strips) do
        local c, n = table.unpack(strip)
        local before, set = segments(c, n)
        set(k:fma(before, old_part, out[c] * part))
        out[c]:set(0)
      end
      top:set(LOWEST)
      sum:set(0)
    end

    k:pipelined(start, stop, 1, { stages = stages }, function(i)
      for j = 0, TURN - 1 do
        local page = k:load(a.block_table, { seq, (i * TURN + j):min(last_page) })
        k:copy(k:view(keys, { j * P, 0 }, P, D), k:view(a.k_pages, { page, head, 0, 0 }, P, D))
        k:copy(k:view(values, { j * P, 0 }, P, W), k:view(a.v_pages, { page, head, 0, 0 }, P, W))
      end
      k:when((i % per_segment):eq(0), merge)
      local base, score = (i * B):cast("s32"), {}
      for j = 0, TURN - 1 do
        score[j] = k:frag("f32", R, P, "acc"):set(0)
        local function add(c, n, x) k:gemm(score[j], x, k:view(keys, { j * P, c }, n, P, { transposed = true })) end
        if not held then add(0, D, k:view(tile_q, { 0, 0 }, R, D)) end
        for _, strip in ipairs(held and strips or {}) do add(strip[1], q[strip[1]].cols, q[strip[1]]) end
      end
      for j = 0, TURN - 1 do change_score(score[j], base + j * P) end
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
      local rest = {} -- what rounding took off: the sum is that of the weights as they were
      for j = 0, TURN - 1 do
        local weight = (score[j] - new):exp()
        weights[j] = weight:cast("bf16")
        rest[j] = (weight - weights[j]:f32()):cast("bf16")
      end
      sum:set(sum * shrink)
      for j = 0, TURN - 1 do
        k:gemm(sum, weights[j], k:view(ones, { 0, 0 }, P, 16))
        k:gemm(sum, rest[j], k:view(ones, { 0, 0 }, P, 16))
      end
      for _, strip in ipairs(strips) do
        local c, n = table.unpack(strip)
        out[c]:set(out[c] * shrink)
        for j = 0, TURN - 1 do k:gemm(out[c], weights[j], k:view(values, { j * P, c }, P, n)) end
      end
    end)
    merge()

    -- through on-chip memory, so that a token's columns are stored side by side
    local function outputs()
      local scale = 1.0 / Sum
      if p.sinks then
        local new = Top:max(sinks)
        local part = (Top - new):exp()
        scale = part / k:fma(Sum, part, (sinks - new):exp())
      end
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
    end
    if not p.split then return outputs() end
    k:when(spread, function()
      local slot = tile * attention_segments(k, p) + segment
      for _, strip in ipairs(strips) do
        k:store(a.partial, { slot, head * G, strip[1] }, (segments(strip[1], strip[2])))
      end
      k:store(a.stats, { slot, head * G, 0 }, Top)
      k:store(a.stats, { slot, head * G, 1 }, Sum)
    end, function() k:when(segment:eq(0), outputs) end)
  end
  if p.split then k:when(start:lt(stop), run) else run() end
end)
