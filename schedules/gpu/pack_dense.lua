-- pack_dense.lua - a warp takes 16 columns and a few runs of K: rows of the source are runs of the panel already, so pairs
-- of neighbours become words in the thread that read them.
return schedule "pack_dense" {
  fits = function(p) return p.w == "bf16" and panel_unit(p) == 32 end,
} (function(k, a, p)
  local runs = ceil_div(round_up(p.k, 16), 32)
  local each = divisor(runs, 8)
  k:tiles(ceil_div(p.n, 16), runs // each)
  local block, first = k:block(0), k:block(1) * each
  local rows = {}
  for i = 0, each - 1 do rows[i] = k:load(a.source, { block * 16, (first + i) * 32 }, 16, 32) end
  for i = 0, each - 1 do
    local pairs = float_code(p.w, rows[i]):reshape(256, 2)
    local words = pairs:slice(0, 256, 0, 1) | pairs:slice(0, 256, 1, 1) << 16
    k:store(a.w, { block, first + i, 0, 0 }, words:reshape(16, 16))
  end
end)
