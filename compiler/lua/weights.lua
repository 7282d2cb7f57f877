-- weights.lua - how the weights of a matmul lie in memory, one row a format; shared by matmul, the packing operators and the
-- plan, so that packing and use can't disagree.
--   elem    element of the packed panel [N/16][K/unit][16][unit]
--   x       form of the left side (activation.lua); acc the type that a group is summed in
--   unit    elements of K side by side
--   zero    what is subtracted from every stored value when there are no zero points of its own
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
  return argument(name, f.elem, { round_up(p.k, 16), round_up(p.n, 16) }, access, { panel = f.unit, pairs = f.pairs })
end

-- Scales (and zero points) of a quantized panel: [groups, N], p.group rows of K a group.
function weight_groups(p) return ceil_div(p.k, p.group) end
function weight_scale(name, p, elem, access)
  return argument(name, elem, { weight_groups(p), round_up(p.n, 16) }, access)
end
