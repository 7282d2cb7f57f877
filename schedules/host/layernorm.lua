-- layernorm.lua - one row a block: a pass for the sum, a pass for the squared differences from the mean, a pass for the
-- output. Sums are 16 partial sums, then a tree. The padding of a row is zero, so only the second pass must leave it
-- out.
return schedule "layernorm" {} (function(k, a, p, s)
  k:tiles(norm_rows(p))
  local row = k:block(0)
  local from = p.gather and k:load(a[norm_row_list(p)], { row }) or row
  local n, whole = round_up(p.n, 16), p.n // 16 * 16

  local sum = k:frag("f32", 1, 16):set(0)
  k:range(0, n, 16, function(j)
    local x = k:load(a.x, { from, j }, 1, 16)
    if p.residual then
      x = x + k:load(a.residual, { row, j }, 1, 16)
      k:store(a.x, { row, j }, x)
    end
    sum:set(sum + x)
  end)
  local mean = sum:sum() / p.n

  local square = k:frag("f32", 1, 16):set(0)
  local function difference(j) return k:load(a.x, { from, j }, 1, 16) - mean end
  k:range(0, whole, 16, function(j)
    local d = difference(j)
    square:set(k:fma(d, d, square))
  end)
  if whole < n then
    local d = k:select(k:col(16):lt(p.n - whole), difference(whole), 0.0)
    square:set(k:fma(d, d, square))
  end
  local scale = 1.0 / (square:sum() / p.n + p.eps):sqrt()

  emit_activation(k, a, p, row, function(j)
    local y = difference(j) * scale * k:load(a.w, { j }, 1, 16)
    return p.bias and y + k:load(a.b, { j }, 1, 16) or y
  end)
end)
