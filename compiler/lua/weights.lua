-- weights.lua - how the weights of a matmul lie in memory, one row a format; shared by matmul, the packing operators
-- and the plan, so that packing and use can't disagree.
--   elem    element of the packed panel [N/wide][K/unit][wide][unit]
--   x       form of the left side (activation.lua); acc the type that a group is summed in
--   unit    elements of K side by side
--   zero    what is subtracted from every stored value when there are no zero points of its own
-- Columns of a panel: what a tile of four vectors reads in one row is contiguous memory, one stream for the prefetcher.
panel_wide = 64

weight_formats = {
  f32   = { elem = "f32", x = "f32", unit = 1 },
  f16   = { elem = "f16", x = "f32", unit = 2 },
  bf16  = { elem = "bf16", x = "bf16", unit = 2 },
  w8    = { elem = "u8", x = "s8", unit = 4, zero = 128, acc = "s32" },
  w4    = { elem = "u4", x = "s8", unit = 8, zero = 8, acc = "s32" },
  -- bf16 dots see 128 + q (gemm.c), so 128 is part of every zero point
  w4a16 = { elem = "u4", x = "bf16", unit = 8, zero = 8, acc = "f32", pairs = true, offset = 128 },
}

-- Panel of p.k x p.n weights in format p.w; K padded to the unit and, so that rows of x can be read whole, to 16.
function weight_panel(name, p, access)
  local f = weight_formats[p.w]
  local layout = { panel = f.unit, wide = panel_wide, pairs = f.pairs }
  return argument(name, f.elem, { round_up(p.k, 16), round_up(p.n, 16) }, access, layout)
end

-- Scales (and zero points) of a quantized panel: [groups, N], p.group rows of K a group. p.pitch: columns of the matrix
-- that this one is a part of (weights merged side by side).
function weight_groups(p) return ceil_div(p.k, p.group) end
function weight_scale(name, p, elem, access)
  return argument(name, elem, { weight_groups(p), round_up(p.n, 16) }, access, { pitch = p.pitch })
end

-- ---- packing: the same panel as lines [N/wide, K/unit, wide/16, 16] of 32-bit words, a word a column ----------------

function panel_lines(name, p, access)
  local lines = round_up(p.k, 16) // weight_formats[p.w].unit
  return argument(name, "s32", { ceil_div(p.n, panel_wide), lines, panel_wide // 16, 16 }, access)
end

-- Coordinates of the line of column block `block` (16 columns).
function panel_line(block, line)
  local blocks = panel_wide // 16
  return { block // blocks, line, block % blocks, 0 }
end

-- Stores the rows of `words`, a tile [lines, 16], as lines of one column block, of which there are `total`.
function store_lines(k, memory, block, line, words, total)
  for i = 0, words.rows - 1 do
    local function store() k:store(memory, panel_line(block, line + i), words:slice(i, 1, 0, 16)) end
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
