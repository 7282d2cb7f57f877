-- rotary.lua - one token a block: cos and sin of its position once, then every head.
local function chunk_width(n) -- widest tile that divides n columns
  for _, w in ipairs { 64, 48, 32, 16, 8, 4, 2, 1 } do
    if n % w == 0 then return w end
  end
end

return schedule "rotary" {} (function(k, a, p)
  k:tiles("tokens")
  local row, D, half = k:block(0), p.head_dim, p.rotary // 2
  local slot = k:load(a.kv_slot, { row })
  local page, at = slot // p.page, slot % p.page
  local w = chunk_width(half)
  local staged = k:shared("f32", { 1, D }) -- the columns of one k head in order, whatever the pairing
  local position = k:load(a.positions, { row }):f32()
  local cos, sin = {}, {}
  for j = 0, half - 1, w do
    local angle = k:load(a.inv_freq, { j }, 1, w) * position
    cos[j], sin[j] = angle:cos() * p.factor, angle:sin() * p.factor
  end

  -- value(first, count, step): columns of a head after the optional norm
  local function head_values(column, weight)
    local scale
    if weight then
      local square = k:frag("f32", 1, 16):set(0)
      for j = 0, D - 1, 16 do
        local x = k:load(a.qkv, { row, column + j }, 1, 16)
        square:set(k:fma(x, x, square))
      end
      scale = 1.0 / (square:sum() / D + p.eps):sqrt()
    end
    return function(first, count, step)
      local function read(memory, coordinates)
        if step == 1 then return k:load(memory, coordinates, 1, count) end
        return k:gather(memory, coordinates, k:col(count) * step)
      end
      local x = read(a.qkv, { row, column + first })
      return weight and x * scale * read(weight, { first }) or x
    end
  end

  -- put(first, step, tile): stores columns of the result
  local function rotate(value, put)
    local apart, step = half, 1
    if p.style == "interleaved" then apart, step = 1, 2 end
    for j = 0, half - 1, w do
      local x, y = value(j * step, w, step), value(j * step + apart, w, step)
      put(j * step, step, x * cos[j] - y * sin[j])
      put(j * step + apart, step, y * cos[j] + x * sin[j])
    end
    local rest = D - p.rotary
    if rest > 0 then
      local v = chunk_width(rest)
      for j = p.rotary, D - 1, v do put(j, 1, value(j, v, 1)) end
    end
  end

  -- A head as a page of s8 stores it (attention.lua): value(c) gives 16 columns, put(c, code) stores them.
  local function store_rounded(value, head, scales, put)
    local highest = k:frag("f32", 1, 16):set(0)
    for c = 0, D - 1, 16 do highest:set(highest:max(value(c):abs())) end
    local top = highest:highest()
    local inverse = k:select(top:gt(0), k:const("f32", 127) / top, 0.0)
    for c = 0, D - 1, 16 do put(c, ((value(c) * inverse):cast("s8"):cast("s32") + 128):cast("u8")) end
    k:store(scales, { page, head, at }, top / 127)
  end

  local kind = query_type(p.kv)
  k:range(0, p.heads, 1, function(head)
    rotate(head_values(head * D + p.offsets[1], p.qk_norm and a.q_norm), function(first, step, y)
      y = (y * p.scale):cast(kind)
      if step == 1 then k:store(a.q, { row, head, first }, y) else k:scatter(a.q, { row, head, first }, k:col(y.cols) * step, y) end
    end)
  end)
  k:range(0, p.kv_heads, 1, function(head)
    rotate(head_values(head * D + p.offsets[2], p.qk_norm and a.k_norm), function(first, step, y)
      if step == 1 then k:store(staged, { 0, first }, y) else k:scatter(staged, { 0, first }, k:col(y.cols) * step, y) end
    end)
    if p.kv == "s8" then
      store_rounded(function(c) return k:load(staged, { 0, c }, 1, 16) end, head, a.k_scales, function(c, code)
        k:store(a.k_pages, { page, head, c, at }, code, { transposed = true })
      end)
      store_rounded(function(c) return k:load(a.qkv, { row, head * D + p.offsets[3] + c }, 1, 16) end, head, a.v_scales,
                    function(c, code) k:store(a.v_pages, { page, head, at, c }, code) end)
      return
    end
    local v = chunk_width(D)
    for d = 0, D - 1, v do
      k:store(a.k_pages, { page, head, d, at }, k:load(staged, { 0, d }, 1, v):cast(p.kv), { transposed = true })
      k:store(a.v_pages, { page, head, at, d }, k:load(a.qkv, { row, head * D + p.offsets[3] + d }, 1, v):cast(p.kv))
    end
  end)
end)
