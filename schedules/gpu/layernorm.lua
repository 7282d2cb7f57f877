-- layernorm.lua - a row stays in a block's registers: mean, squared differences from it, output. The padding of a row
-- is zero and no difference.
return schedule "layernorm" {
  fits = wide_fits, settings = norm_settings, default = norm_default, sensible = wide_sensible,
} (function(k, a, p, s)
  local w = k:wide_rows(p, s, norm_rows(p), p.gather)
  local from = p.gather and k:load(a[norm_row_list(p)], { w.row }) or w.row

  local x = norm_rows_in(k, a, p, w, from)
  local weight = norm_weights(k, a, w, s)
  local mean = wide_sum(w, x) / p.n
  local d = wide_map(w, function(i, j)
    local d = x[i] - mean
    return j + w.n <= p.n and d or k:select(k:col(w.n):lt(p.n - j), d, 0.0)
  end)
  local square = d[1] * d[1]
  for i = 2, #d do square = k:fma(d[i], d[i], square) end
  local scale = 1.0 / (square:reduce("add", "cols", w.n) / p.n + p.eps):sqrt()

  emit_wide(k, a, p, w, wide_map(w, function(i, j)
    local y = d[i] * scale * weight(i)
    return p.bias and y + k:load(a.b, { j }, 1, w.n) or y
  end))
end)
