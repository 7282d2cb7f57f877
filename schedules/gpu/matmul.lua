-- matmul.lua - a block computes R rows x C columns. Pieces of K of x and of the weights come through on-chip memory, a few
-- ahead of the matrix units; a piece is a group of the weights' scales, or 64 elements where there are none.
local function pieces(p) -- elements of K a piece, and whether each has scales of its own
  local f = weight_formats[p.w]
  if not f.acc then return 64, false end
  if p.group <= 256 and p.group < p.k then return round_up(p.group, panel_unit(p)), true end
  return 128, false
end

return schedule "matmul" {
  settings = { rows = { 16, 32, 64, 128 }, cols = { 64, 32, 128 }, warps = { 4, 2, 8 }, stages = { 3, 2, 4, 6 } },
  fits = function(p)
    return weight_formats[p.w].x ~= "f32" and panel_unit(p) >= 32 and not (p.cut and p.group and p.group > 256)
  end,
  -- bucket: most rows of a call
  default = function(p, bucket)
    local rows = (not bucket or bucket == 0) and 64 or bucket > 16 and 32 or 16
    -- Sums and fragments of four warps don't fit in registers where these are few, or gate and up are both unpacked or summed
    -- at three levels (group, cut, all).
    local heavy = p.act and (p.w == "w4a16" or p.cut and p.group) and rows > 32
    local many = (target.gpu.matrix == "wmma" or heavy) and 8 or 4
    local wide = rows > 16 or bucket and bucket > 4 -- the more rows, the more x weighs against the weights
    return { rows = rows, cols = wide and 64 or 32, warps = wide and many or 2,
             stages = target.gpu.stages > 1 and 4 or 1 }
  end,
  sensible = function(p, s, bucket)
    local row_warps = s.rows >= 64 and 2 or 1
    if s.cols // (s.warps // row_warps) < 16 then return false end
    return s.rows * s.cols // (s.warps * target.gpu.wave) <= (p.act and 32 or 64)
  end,
} (function(k, a, p, s)
  local f, over, R, C = weight_formats[p.w], p.over or "tokens", s.rows, s.cols
  local piece, grouped = pieces(p)
  local row_warps = R >= 64 and s.warps > 1 and 2 or 1
  local sides = p.act == "silu_mul" and { "", "2" } or { "" }
  k:warps(row_warps, s.warps // row_warps)
  local columns, rows = { n = ceil_div(round_up(p.n, 16), C) }, { size = over, div = R }
  if p.part then k:tiles(columns, rows, matmul_pieces(p)) else k:tiles(columns, rows) end
  local n0, m0 = k:block(0) * C, k:block(1) * R
  local turns = ceil_div(p.k, piece)
  local per_cut = p.cut and matmul_cut(p) // piece or turns

  local x, w, sum, part, total = k:shared(f.x, { R, piece }), {}, {}, {}, {}
  for _, side in ipairs(sides) do
    w[side] = k:shared(f.elem, { piece, C }, { panel = panel_unit(p), wide = panel_wide, pairs = f.pairs })
    sum[side] = k:frag("f32", R, C, "acc"):set(0)
    part[side] = f.acc and k:frag(f.acc, R, C, "acc") or sum[side]
    total[side] = p.cut and not p.part and k:frag("f32", R, C, "acc"):set(0) or sum[side]
  end

  -- Dot products of a group begin at -zero * sum(x).
  local function begin(side, g)
    local zero = p.zeros and k:load(a["zero" .. side], { g, n0 }, 1, C):cast(f.acc) + (f.offset or 0)
    part[side]:set(k:load(a.x_sum, { m0, g }, R, 1) * (zero and -zero or -(f.zero + (f.offset or 0))))
  end

  local function finish(side, g)
    local product = part[side]:f32()
    if f.x == "s8" then product = product * k:load(a.x_scale, { m0, g }, R, 1) end
    sum[side]:set(k:fma(product, k:load(a["scale" .. side], { g, n0 }, 1, C):f32(), sum[side]))
  end

  local whole = f.acc and not grouped -- one group of scales, of many turns
  local zero = k:const("s64", 0)
  for _, side in ipairs(whole and sides or {}) do begin(side, zero) end

  -- The pieces of a cut K join in order.
  local function join()
    for _, side in ipairs(sides) do
      total[side]:set(total[side] + sum[side])
      sum[side]:set(0)
    end
  end

  local bits = f.elem == "u4" and 4 or 8 * bytes_of(f.elem)
  local stage = R * (piece * bytes_of(f.x) + 64) + #sides * piece * C * bits // 8
  local first = p.part and k:block(2) * per_cut or 0
  local last = p.part and (first + per_cut):min(turns) or turns
  k:pipelined(first, last, 1, { stages = math.min(s.stages, target.gpu.shared // stage) }, function(i)
    k:copy(k:view(x, { 0, 0 }, R, piece), k:view(a.x, { m0, i * piece }, R, piece))
    for _, side in ipairs(sides) do
      k:copy(k:view(w[side], { 0, 0 }, piece, C), k:view(a["w" .. side], { i * piece, n0 }, piece, C))
    end
    for _, side in ipairs(sides) do
      if grouped then begin(side, i) end
      k:gemm(part[side], k:view(x, { 0, 0 }, R, piece), k:view(w[side], { 0, 0 }, piece, C))
      if grouped then finish(side, i) end
    end
    if p.cut and not p.part then k:when((i % per_cut):eq(per_cut - 1), join) end
  end)
  if p.part then
    for _, side in ipairs(sides) do k:store(a["y" .. side], { k:block(2), m0, n0 }, sum[side]) end
    return
  end
  if p.cut and turns % per_cut > 0 then join() end
  for _, side in ipairs(whole and sides or {}) do finish(side, zero) end

  local function product(side) return p.bias and total[side] + k:load(a["bias" .. side], { n0 }, 1, C) or total[side] end
  local y = product("")
  if #sides == 2 then y = y:silu() * product("2") end
  if p.residual then y = y + k:load(a.y, { m0, n0 }, R, C) end
  k:store(a.y, { m0, n0 }, y)
end)
