-- rotary.lua - a block is one token and a few heads, of q or of k and v. What the heads read is loaded before anything
-- is stored, so that its latencies overlap; a head's halves are two tiles.
return schedule "rotary" {
  settings = { heads = { 4, 1, 2, 8 } }, -- most heads of a block
  -- bucket: most rows of a call
  default = function(p, bucket) return { heads = (not bucket or bucket == 0) and 4 or 1 } end,
} (function(k, a, p, s)
  local D, half, rest = p.head_dim, p.rotary // 2, p.head_dim - p.rotary
  local per = { q = power_of_two_divisor(p.heads, s.heads), k = power_of_two_divisor(p.kv_heads, s.heads) }
  local q_blocks = p.heads // per.q
  k:warps(1, 1)
  k:tiles("tokens", q_blocks + p.kv_heads // per.k)
  local row, block = k:block(0), k:block(1)
  local angle = k:load(a.inv_freq, { 0 }, 1, half) * k:load(a.positions, { row }):f32()
  local cos, sin = angle:cos() * p.factor, angle:sin() * p.factor
  local apart, step = half, 1 -- between the columns of a pair, and from pair to pair
  if p.style == "interleaved" then apart, step = 1, 2 end

  local function read(memory, coordinates, count, by)
    if by == 1 then return k:load(memory, coordinates, 1, count) end
    return k:gather(memory, coordinates, k:col(count) * by)
  end

  local function write(memory, coordinates, value, by)
    if by == 1 then return k:store(memory, coordinates, value) end
    k:scatter(memory, coordinates, k:col(value.cols) * by, value)
  end

  -- A head rotated, in parts: {tile, first column, columns from element to element}.
  local function rotated(column, weight)
    local scale
    if weight then
      local x = k:load(a.qkv, { row, column }, 1, D)
      scale = 1.0 / ((x * x):reduce("add", "cols", rotary_tree(p)) / D + p.eps):sqrt()
    end
    local function value(first, count, by)
      local x = read(a.qkv, { row, column + first }, count, by)
      return weight and x * scale * read(weight, { first }, count, by) or x
    end
    local x, y = value(0, half, step), value(apart, half, step)
    local parts = { { x * cos - y * sin, 0, step }, { y * cos + x * sin, apart, step } }
    if rest > 0 then parts[3] = { value(p.rotary, rest, 1), p.rotary, 1 } end
    return parts
  end

  local function heads_of(first, count, fn)
    local list = {}
    for i = 0, count - 1 do list[i] = fn(first * count + i) end
    return list
  end

  local function queries()
    local kind = query_type(p.kv)
    local list = heads_of(block, per.q, function(head)
      return { head, rotated(head * D + p.offsets[1], p.qk_norm and a.q_norm) }
    end)
    for i = 0, per.q - 1 do
      for _, part in ipairs(list[i][2]) do
        write(a.q, { row, list[i][1], part[2] }, (part[1] * p.scale):cast(kind), part[3])
      end
    end
  end

  -- Parts as a page holds them; with a scale for all of them where it holds s8 (attention.lua).
  local function codes(parts, scales, head, page, at)
    if p.kv ~= "s8" then
      for _, part in ipairs(parts) do part[1] = part[1]:cast(p.kv) end
      return
    end
    local top
    for _, part in ipairs(parts) do
      local highest = part[1]:abs():highest()
      top = top and top:max(highest) or highest
    end
    local inverse = k:select(top:gt(0), k:const("f32", 127) / top, 0.0)
    for _, part in ipairs(parts) do part[1] = ((part[1] * inverse):cast("s8"):cast("s32") + 128):cast("u8") end
    k:store(scales, { page, head, at }, top / 127)
  end

  -- k of one token: a row of its page, or a column, packed.
  local staged = p.style == "interleaved" and not kv_in_runs(p) and k:shared(p.kv == "s8" and "u8" or p.kv, { 1, D })
  local function put_key(page, head, at, parts)
    for _, part in ipairs(parts) do
      if kv_in_runs(p) then
        write(a.k_pages, { page, head, at, part[2] }, part[1], part[3])
      elseif staged then
        write(staged, { 0, part[2] }, part[1], part[3])
      else
        k:store(a.k_pages, { page, head, part[2], at }, part[1], { transposed = true })
      end
    end
    if staged then k:store(a.k_pages, { page, head, 0, at }, k:load(staged, { 0, 0 }, 1, D), { transposed = true }) end
  end

  local function keys_and_values()
    local slot = k:load(a.kv_slot, { row })
    local page, at = slot // p.page, slot % p.page
    local list = heads_of(block - q_blocks, per.k, function(head)
      return { head, rotated(head * D + p.offsets[2], p.qk_norm and a.k_norm),
               { { k:load(a.qkv, { row, head * D + p.offsets[3] }, 1, D), 0, 1 } } }
    end)
    for i = 0, per.k - 1 do
      local head, key, value = list[i][1], list[i][2], list[i][3]
      codes(key, a.k_scales, head, page, at)
      put_key(page, head, at, key)
      codes(value, a.v_scales, head, page, at)
      k:store(a.v_pages, { page, head, at, 0 }, value[1][1])
    end
  end

  k:when(block:lt(q_blocks), queries, keys_and_values)
end)
