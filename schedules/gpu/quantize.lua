-- quantize.lua - a row stays in a block's registers from its largest element to the output.
return schedule "quantize" {
  fits = wide_fits, settings = wide_settings(), default = wide_default, sensible = wide_sensible,
} (function(k, a, p, s)
  local w = k:wide_rows(p, s, p.rows or "tokens", p.perm)
  emit_wide(k, a, p, w, wide_map(w, function(_, j)
    if not p.perm then return k:load(a.x, { w.row, j }, w.rows, w.n) end
    local x = k:gather(a.x, { w.row, 0 }, k:load(a.perm, { j }, 1, w.n))
    return j + w.n <= p.n and x or k:select(k:col(w.n):lt(p.n - j), x, 0.0)
  end))
end)
