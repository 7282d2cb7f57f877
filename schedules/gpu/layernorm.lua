-- layernorm.lua - a row stays in a block's registers: mean, squared differences from it, output. The padding of a row is
-- zero and no difference.
return schedule "layernorm" {
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
  local mean = wide_sum(w, x) / p.n
  local d = wide_map(w, function(i, j)
    local d = x[i] - mean
    return j + w.n <= p.n and d or k:select(k:col(w.n):lt(p.n - j), d, 0.0)
  end)
  local square = d[1] * d[1]
  for i = 2, #d do square = k:fma(d[i], d[i], square) end
  local scale = 1.0 / (square:reduce("add", "cols", w.n) / p.n + p.eps):sqrt()

  emit_wide(k, a, p, w, wide_map(w, function(i, j)
    local y = d[i] * scale * k:load(a.w, { j }, 1, w.n)
    return p.bias and y + k:load(a.b, { j }, 1, w.n) or y
  end))
end)
