-- rmsnorm.lua - a row stays in a block's registers from the sum of squares to the output.
return schedule "rmsnorm" {
  fits = wide_fits, settings = norm_settings, default = norm_default, sensible = wide_sensible,
} (function(k, a, p, s)
  local w = k:wide_rows(p, s, norm_rows(p), p.gather)
  local from = p.gather and k:load(a[norm_row_list(p)], { w.row }) or w.row

  local x = norm_rows_in(k, a, p, w, from)
  local weight = norm_weights(k, a, w, s)
  local square = x[1] * x[1]
  for i = 2, #x do square = k:fma(x[i], x[i], square) end
  local scale = 1.0 / (square:reduce("add", "cols", w.n) / p.n + p.eps):sqrt()

  emit_wide(k, a, p, w, wide_map(w, function(i) return x[i] * scale * weight(i) end))
end)
