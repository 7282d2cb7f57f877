-- limit_peak.lua - a block's tile of products, over and over, from on-chip memory: what the matrix units reach when
-- their operands are at hand.
return schedule "limit_peak" {
  fits = function(p) return weight_formats[p.w].x ~= "f32" and panel_unit(p) >= 32 end,
} (function(k, a, p, s)
  local f, wide = weight_formats[p.w], p.n >= 128 and p.m >= 128
  k:warps(wide and 2 or 1, wide and 128 // target.gpu.wave or 1)
  k:tiles("rows")
  local x = k:shared(f.x, { p.m, p.k })
  local w = k:shared(f.elem, { p.k, p.n }, { panel = panel_unit(p), wide = panel_wide, pairs = f.pairs })
  k:copy(k:view(x, { 0, 0 }, p.m, p.k), k:view(a.x, { 0, 0 }, p.m, p.k))
  k:copy(k:view(w, { 0, 0 }, p.k, p.n), k:view(a.w, { 0, 0 }, p.k, p.n))
  local acc = k:frag(f.acc or "f32", p.m, p.n, "acc"):set(0)
  k:range(0, p.repeats, 1, function()
    k:gemm(acc, k:view(x, { 0, 0 }, p.m, p.k), k:view(w, { 0, 0 }, p.k, p.n))
  end)
  k:store(a.y, { k:block(0), 0, 0 }, acc)
end)
