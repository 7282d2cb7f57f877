-- weights.lua - how the weights of a matmul lie in memory, one row a format; shared by matmul, the packing operators
-- and the plan, so that packing and use can't disagree.
--   elem    element of the packed panel [N/wide][K/unit][wide][unit]
--   x       form of the left side (activation.lua); acc the type that a group is summed in
--   unit    elements of K in a 32-bit word, side by side on CPUs
--   run     GPUs: most elements of K side by side, 64 bytes, from which the lanes of a matrix unit take 16 each
--   zero    what is subtracted from every stored value when there are no zero points of its own
-- Columns of a panel. CPUs: what a tile of four vectors reads in one row is contiguous memory, one stream for the
-- prefetcher. GPUs: what one call of a matrix unit reads.
panel_wide = target.gpu and 16 or 64

weight_formats = {
  f32   = { elem = "f32", x = "f32", unit = 1 },
  f16   = { elem = "f16", x = "f32", unit = 2 },
  bf16  = { elem = "bf16", x = "bf16", unit = 2, run = 32 },
  w8    = { elem = "u8", x = "s8", unit = 4, run = 64, zero = 128, acc = "s32" },
  w4    = { elem = "u4", x = "s8", unit = 8, run = 128, zero = 8, acc = "s32" },
  -- bf16 dots see 128 + q (gemm.c), so 128 is part of every zero point
  w4a16 = { elem = "u4", x = "bf16", unit = 8, run = 128, zero = 8, acc = "f32", pairs = true, offset = 128 },
}

-- Elements of K side by side: on GPUs as many as divide a group, 32 or more, or else the word's.
function panel_unit(p)
  local f = weight_formats[p.w]
  local run = target.gpu and f.run or f.unit
  while f.acc and p.group and p.group < p.k and p.group % run > 0 and run > 16 do run = run // 2 end
  return run >= 32 and run or f.unit
end

-- Bytes of a panel of k x n weights, n columns of which may be a part of.
function panel_bytes(w, k, n, group)
  local p, bits = { w = w, k = k, group = group }, weight_formats[w].elem == "u4" and 4 or 8 * bytes_of(weight_formats[w].elem)
  return round_up(round_up(k, 16), panel_unit(p)) * round_up(n, panel_wide) * bits // 8
end

-- Panel of p.k x p.n weights in format p.w; K padded to the unit and, so that rows of x can be read whole, to 16.
function weight_panel(name, p, access)
  local f = weight_formats[p.w]
  local layout = { panel = panel_unit(p), wide = panel_wide, pairs = f.pairs }
  return argument(name, f.elem, { round_up(p.k, 16), round_up(p.n, 16) }, access, layout)
end

-- Scales (and zero points) of a quantized panel: [groups, N], p.group rows of K a group. p.pitch: columns of the matrix
-- that this one is a part of (weights merged side by side).
function weight_groups(p) return ceil_div(p.k, p.group) end
function weight_scale(name, p, elem, access)
  return argument(name, elem, { weight_groups(p), round_up(p.n, 16) }, access, { pitch = p.pitch })
end

-- ---- packing: the same panel as 32-bit words, of which a line of K has one for each column ---------------------------
-- Single words side by side: lines [N/wide, K/unit, wide/16, 16]. Runs of several: [N/16, K/run, 16, words of a run].

local function words_of_run(p) return panel_unit(p) // weight_formats[p.w].unit end

function panel_lines(name, p, access)
  local f, run = weight_formats[p.w], words_of_run(p)
  local lines = round_up(p.k, 16) // f.unit
  if run == 1 then return argument(name, "s32", { ceil_div(p.n, panel_wide), lines, panel_wide // 16, 16 }, access) end
  return argument(name, "s32", { ceil_div(p.n, 16), ceil_div(lines, run), 16, run }, access)
end

-- Coordinates of the line of column block `block` (16 columns), and whether its words lie one below the other.
local function panel_line(p, block, line)
  local blocks, run = panel_wide // 16, words_of_run(p)
  if run > 1 then return { block, line // run, 0, line % run }, true end
  return { block // blocks, line, block % blocks, 0 }, false
end

function store_line(k, p, memory, block, line, words)
  local at, turned = panel_line(p, block, line)
  k:store(memory, at, turned and words:transpose() or words)
end

function load_line(k, p, memory, block, line)
  local at, turned = panel_line(p, block, line)
  if turned then return k:load(memory, at, 16, 1):transpose() end
  return k:load(memory, at, 1, 16)
end

-- Stores the rows of `words`, a tile [lines, 16], as lines of one column block, of which there are `total`. `line` is a
-- multiple of their number.
function store_lines(k, p, memory, block, line, words, total)
  if words_of_run(p) > 1 and words_of_run(p) % words.rows == 0 then
    return k:store(memory, panel_line(p, block, line), words:transpose())
  end
  for i = 0, words.rows - 1 do
    local function store() store_line(k, p, memory, block, line + i, words:slice(i, 1, 0, 16)) end
    if total % words.rows == 0 then store() else k:when((line + i):lt(total), store) end
  end
end

-- First bit of the i-th of `unit` elements in its word (order of nibbles: Memory in ir.h).
function panel_shift(f, i)
  if f.elem ~= "u4" then return 32 // f.unit * i end
  return 4 * (f.pairs and i // 2 + i % 2 * 4 or i % 4 * 2 + i // 4)
end

-- The words whose i-th element is code(i), an s32 tile.
function panel_words(f, code)
  local words
  for i = 0, f.unit - 1 do
    local shift, c = panel_shift(f, i), code(i)
    c = shift > 0 and c << shift or c
    words = words and words | c or c
  end
  return words
end

-- The bits of floats `v` as the elements of format `w`, an s32 tile.
function float_code(w, v)
  if w == "f32" then return v:cast("f32"):bitcast("s32") end
  return v:cast(w):bitcast("u16"):cast("s32")
end

-- Bits of an element of a quantized panel, and of the checkpoint's words that it comes from.
function packed_bits(w) return weight_formats[w].elem == "u4" and 4 or 8 end

-- Element i of words that hold 32 / bits of them, the lowest bits first.
function packed_element(words, i, bits) return (words >> i * bits) & (1 << bits) - 1 end

-- fn(row) for a row of K, or 0 in the padding of K; `row` is a scalar.
function within_rows(k, p, row, fn)
  if p.k % 16 == 0 then return fn(row) end
  return k:select(row:lt(p.k), fn(row:min(p.k - 1)), 0)
end

-- v [1,16] for the columns from n0, or 0 in the padding of N.
function within_columns(k, p, n0, v)
  if p.n % 16 == 0 then return v end
  return k:select((k:col(16) + n0:cast("s32")):lt(p.n), v, 0)
end

-- 16 lanes from the words that hold them, `per` lanes each: word(i) is a scalar.
function spread_words(k, per, word)
  local lanes = word(0)
  for i = 1, 16 // per - 1 do lanes = k:select(k:col(16):ge(i * per), word(i), lanes) end
  return lanes
end

-- The largest divisor of `n` up to `most`.
function divisor(n, most)
  for d = math.min(n, most), 1, -1 do
    if n % d == 0 then return d end
  end
end

-- What every operator that packs quantized weights writes, after its sources in `list`.
function packed_outputs(list, p)
  list[#list + 1] = panel_lines("w", p, "out")
  list[#list + 1] = weight_scale("scale", p, p.scale, "out")
  if p.zeros then list[#list + 1] = weight_scale("zero", p, "u8", "out") end
  return list
end

-- ---- for references -------------------------------------------------------------------------------------------------

-- Lines of the panel of which value(k, n) is every element; and the reverse.
function assign_panel(lines, p, value)
  local panel = blade.tensor(weight_panel("panel", p), {})
  panel:fill(value)
  lines:assign(panel:bits())
end

function panel_of(lines, p)
  local panel = blade.tensor(weight_panel("panel", p), {})
  panel:assign(lines:bits())
  return panel
end

-- Element i of a word as packed_element, for a word read from a tensor.
function packed_code(word, i, bits) return math.tointeger(word) >> i % (32 // bits) * bits & (1 << bits) - 1 end

-- Any 32 bits in every element of the s32 tensors given.
function fill_words(random, ...)
  for _, t in pairs { ... } do
    t:fill(function() return random.integer(0, 65535) * 65536 + random.integer(0, 65535) - 2147483648 end)
  end
end

-- Outputs of packed_outputs from functions of the code [k, n], the zero point and the scale [group, n]; the padding is
-- 0.
function packed_reference(p, t, code, zero, scale)
  assign_panel(t.w, p, function(k, n) return k < p.k and n < p.n and code(k, n) or 0 end)
  t.scale:fill(function(g, n) return n < p.n and scale(g, n) or 0 end)
  if p.zeros then t.zero:fill(function(g, n) return n < p.n and zero(g, n) or 0 end) end
end
