-- limits.lua - the kernels that measure the machine's limits; every plan has them, for `blade bench` (runtime/bench.c).
local formats = { int8 = "w8", bf16 = "bf16", f32 = "f32" } -- the format whose matmul uses nothing but that instruction

-- Rows and columns of the fastest tile by width of vectors: its sums fill the registers beside what a dot product needs
-- where it is made of several instructions.
local tiles = {
  [128] = { int8 = { 3, 32 }, bf16 = { 2, 16 }, f32 = { 2, 16 } },
  [256] = { int8 = { 3, 32 }, bf16 = { 4, 16 }, f32 = { 6, 16 } },
  [512] = { int8 = { 12, 32 }, bf16 = { 12, 32 }, f32 = { 12, 32 } },
}

function read_limit()
  local n = 65536
  local read = build("limit_read", { n = n }, {})
  return { name = "read", kernel = read.index, bytes_per_block = 4 * n, output_bytes = 512 }
end

-- Not in plans: for comparisons with what must be written too (samples.lua). Bytes that are read; as many are written.
function copy_limit()
  local n = 16384
  return { name = "copy", kernel = build("limit_copy", { n = n }, {}).index, bytes_per_block = 4 * n, output_bytes = 4 * n }
end

function peak_limit(name)
  local p = { k = target.gpu and 64 or 256, w = formats[name], repeats = target.gpu and 64 or 128 }
  p.m, p.n = table.unpack(target.gpu and (name == "f32" and { 64, 32 } or { 128, 128 }) or tiles[target.vector_bits][name])
  local peak = build("limit_peak", p, {})
  return { name = name, kernel = peak.index, ops_per_block = 2 * p.m * p.n * p.k * p.repeats,
    input_bytes = { 4 * p.m * p.k, 4 * p.n * p.k }, output_bytes = 4 * p.m * p.n }
end

function plan_limits(plan)
  plan.limits[1] = read_limit()
  plan.limits[2] = peak_limit(plan.peak)
end
