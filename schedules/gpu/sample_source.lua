-- sample_source.lua - the sampler written in CUDA and HIP: a row a block, its thresholds found by radix.
local threads = 1024

return schedule "sample" {
  name = "source", settings = { source = { "sampler.cu" } },
  fits = function(p) return p.vocab <= 1 << 18 end, -- so far sums of weights are exact
  external = {
    file = "templates/device/sampler.cu", threads = threads, tiles = { "outputs" },
    defines = function(p) return { VOCAB = p.vocab, PITCH = logits_argument(p, "inout").pitch } end,
    shared = function(p) -- struct Shared
      local groups = logits_groups(p)
      return round_up(12 * threads + 8 * logits_group + 8 * math.max(groups, 2048) + 4 * groups + 32, 16)
    end,
  },
} ()
