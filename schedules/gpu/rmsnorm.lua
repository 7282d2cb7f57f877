-- rmsnorm.lua - a row stays in a block's registers from the sum of squares to the output.
return schedule "rmsnorm" {
  fits = wide_fits, settings = wide_settings(), default = wide_default, sensible = wide_sensible,
} (function(k, a, p, s)
  local w = k:wide_rows(p, s, norm_rows(p), p.gather)
  local from = p.gather and k:load(a[norm_row_list(p)], { w.row }) or w.row

  local x = wide_map(w, function(_, j)
    local x = k:load(a.x, { from, j }, w.rows, w.n)
    if p.residual then
      x = x + k:load(a.residual, { w.row, j }, w.rows, w.n)
      k:store(a.x, { w.row, j }, x)
    end
    return x
  end)
  local square = x[1] * x[1]
  for i = 2, #x do square = k:fma(x[i], x[i], square) end
  local scale = 1.0 / (square:reduce("add", "cols", w.n) / p.n + p.eps):sqrt()

  emit_wide(k, a, p, w, wide_map(w, function(i, j) return x[i] * scale * k:load(a.w, { j }, 1, w.n) end))
end)
