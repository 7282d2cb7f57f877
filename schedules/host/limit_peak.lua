-- limit_peak.lua - a register tile of p.m rows and p.n columns, with as many sums as hide the latency of a dot product.
return schedule "limit_peak" { settings = { unroll = { 2, 1 } } } (function(k, a, p, s)
  k:tiles("rows")
  local acc = k:frag(weight_formats[p.w].acc or "f32", p.m, p.n, "acc"):set(0)
  k:range(0, p.repeats, 1, function()
    k:gemm(acc, k:view(a.x, { 0, 0 }, p.m, p.k), k:view(a.w, { 0, 0 }, p.k, p.n), s.unroll)
  end)
  k:store(a.y, { k:block(0), 0, 0 }, acc)
end)
