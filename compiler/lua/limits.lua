-- limits.lua - the kernels that measure the machine's limits, which every plan carries for `blade bench` (runtime/bench.c).
local formats = { int8 = "w8", bf16 = "bf16", f32 = "f32" } -- the format whose matmul uses nothing but that instruction

-- Rows and columns of a tile whose sums, with a line of weights and a broadcast, fill the vector registers.
local function tile()
  if target.vector_registers < 32 then return target.vector_bits == 256 and 6 or 3, 16 end
  return target.vector_bits == 512 and 12 or 6, target.vector_bits == 512 and 32 or 16
end

function plan_limits(plan)
  local n = 65536
  local read = build("limit_read", { n = n })
  plan.limits[1] = { name = "read", kernel = read.index, bytes_per_block = 4 * n, output_bytes = 512 }
  local p = { k = 256, w = formats[plan.peak], repeats = 128 }
  p.m, p.n = tile()
  local peak = build("limit_peak", p)
  plan.limits[2] = { name = plan.peak, kernel = peak.index, ops_per_block = 2 * p.m * p.n * p.k * p.repeats,
    input_bytes = { 4 * p.m * p.k, 4 * p.n * p.k }, output_bytes = 4 * p.m * p.n }
end
