-- activation.lua - the forms in which a matmul reads its left side, shared by every operator that produces one:
--   out = "f32"                     as it is
--   out = "bf16" [, group]          rounded; with a group also sums f32 of the rounded values (for zero points of W4A16)
--   out = "s8", group               symmetric per (row, group of `group` columns): value = q * scale, scale = amax / 127;
--                                   with s32 sums of q (zero points cost nothing in the matmul)
-- Arguments: y [rows, n], and where quantized y_scale f32 and y_sum [rows, groups].

-- K positions a packed weight and its activations are padded to, by output form.
function activation_outputs(p, rows)
  local list = { activation("y", rows, p.n, p.out, "out") }
  if p.group then
    local groups = ceil_div(p.n, p.group)
    if p.out == "s8" then list[#list + 1] = argument("y_scale", "f32", { rows, groups }, "out") end
    list[#list + 1] = argument("y_sum", p.out == "s8" and "s32" or "f32", { rows, groups }, "out")
  end
  return list
end

local function groups_of(p)
  local list, padded = {}, round_up(p.n, 16)
  for first = 0, p.n - 1, p.group do
    -- the last group takes the padding, which is zero
    list[#list + 1] = { first = first, last = first + p.group >= p.n and padded or first + p.group }
  end
  return list
end

-- Applies fn(column) over the 16-column chunks of a group: unrolled when short, else a loop.
local function chunks(k, group, fn)
  if group.length <= 256 then
    for j = 0, group.length - 1, 16 do fn(group.first + j) end
  else
    k:range(group.first, group.first + group.length, 16, fn)
  end
end

local function store_s8(k, a, row, index, group, value)
  local top = k:frag("f32", 1, 16):set(0)
  chunks(k, group, function(j) top:set(top:max(value(j):abs())) end)
  local amax = top:highest()
  local inverse = k:select(amax:gt(0), k:const("f32", 127) / amax, 0.0)
  local sum = k:frag("s32", 1, 16):set(0)
  chunks(k, group, function(j)
    local q = (value(j) * inverse):cast("s8")
    k:store(a.y, { row, j }, q)
    sum:set(sum + q:cast("s32"))
  end)
  k:store(a.y_scale, { row, index }, amax / 127)
  k:store(a.y_sum, { row, index }, sum:sum())
end

local function store_bf16_sums(k, a, row, index, group, value)
  local sum = k:frag("f32", 1, 16):set(0)
  chunks(k, group, function(j)
    local y = value(j):cast("bf16")
    k:store(a.y, { row, j }, y)
    sum:set(sum + y:f32())
  end)
  k:store(a.y_sum, { row, index }, sum:sum())
end

-- Emits the output of one row; value(column) gives an f32 tile [1,16]. n is a multiple of 16 in memory; value must be 0
-- in the padding.
function emit_activation(k, a, p, row, value)
  if not p.group then
    k:range(0, round_up(p.n, 16), 16, function(j) k:store(a.y, { row, j }, value(j):cast(p.out)) end)
    return
  end
  local store, whole = p.out == "s8" and store_s8 or store_bf16_sums, p.n // p.group
  if whole > 1 then
    k:range(0, whole, 1, function(g) store(k, a, row, g, { first = g * p.group, length = p.group }, value) end)
  elseif whole == 1 then
    store(k, a, row, 0, { first = 0, length = p.group }, value)
  end
  local first = whole * p.group -- the last group takes the padding, which is zero
  if first < p.n then store(k, a, row, whole, { first = first, length = round_up(p.n, 16) - first }, value) end
end

function round_even(v)
  local f = math.floor(v)
  local d = v - f
  if d > 0.5 or (d == 0.5 and f % 2 == 1) then f = f + 1 end
  return math.tointeger(f)
end

function activation_reference(p, t, rows, values_of_row)
  for row = 0, rows - 1 do
    local value = values_of_row(row)
    for i = 0, round_up(p.n, 16) - 1 do
      if p.out ~= "s8" then t.y:set(value(i), row, i) end
    end
    for g, group in ipairs(p.group and groups_of(p) or {}) do
      local amax, sum = 0, 0
      for i = group.first, group.last - 1 do amax = math.max(amax, math.abs(value(i))) end
      for i = group.first, group.last - 1 do
        if p.out == "s8" then t.y:set(round_even(amax > 0 and value(i) * 127 / amax or 0), row, i) end
        sum = sum + t.y:get(row, i)
      end
      if p.out == "s8" then t.y_scale:set(amax / 127, row, g - 1) end
      t.y_sum:set(sum, row, g - 1)
    end
  end
end

-- A value close to a rounding boundary may fall to either side: one step of s8, two bf16 units.
function activation_tolerance(p, name)
  if p.out == "f32" then return 2e-6 end
  if name == "y" then return p.out == "s8" and 1.01 / 127 or 8e-3 end
  return name == "y_scale" and 2e-6 or 2e-2
end
