-- rmsnorm.lua - one row a block: a pass for the sum of squares (16 partial sums, then a tree), a pass for the output.
return schedule "rmsnorm" {} (function(k, a, p, s)
  k:tiles(norm_rows(p))
  local row = k:block(0)
  local from = p.gather and k:load(a[norm_row_list(p)], { row }) or row
  local n = round_up(p.n, 16)

  local square = k:frag("f32", 1, 16):set(0)
  k:range(0, n, 16, function(j)
    local x = k:load(a.x, { from, j }, 1, 16)
    if p.residual then
      x = x + k:load(a.residual, { row, j }, 1, 16)
      k:store(a.x, { row, j }, x)
    end
    square:set(k:fma(x, x, square))
  end)
  local scale = 1.0 / (square:sum() / p.n + p.eps):sqrt()

  emit_activation(k, a, p, row, function(j)
    return k:load(a.x, { from, j }, 1, 16) * scale * k:load(a.w, { j }, 1, 16)
  end)
end)
