-- rope.lua - inverse frequencies of rotary embeddings from config.json, for every scaling that is known: default,
-- linear, llama3, yarn. Both spellings are read: rope_theta + rope_scaling, and rope_parameters (transformers 5).
-- Sources: transformers' modeling_rope_utils documentation; Peng et al. 2023 (YaRN), https://arxiv.org/abs/2309.00071.
local function need(s, kind, key)
  return s[key] or error(("config.json: rope scaling '%s' needs \"%s\""):format(kind, key), 0)
end

local scalings = {}

function scalings.default(f) return f, 1.0 end

function scalings.linear(f, s)
  local factor = need(s, "linear", "factor")
  for i = 1, #f do f[i] = f[i] / factor end
  return f, 1.0
end

function scalings.llama3(f, s)
  local factor, low, high = need(s, "llama3", "factor"), need(s, "llama3", "low_freq_factor"), need(s, "llama3", "high_freq_factor")
  local old = need(s, "llama3", "original_max_position_embeddings")
  for i = 1, #f do
    local wavelength = 2 * math.pi / f[i]
    if wavelength > old / low then
      f[i] = f[i] / factor
    elseif wavelength >= old / high then
      local smooth = (old / wavelength - low) / (high - low)
      f[i] = (1 - smooth) * f[i] / factor + smooth * f[i]
    end
  end
  return f, 1.0
end

local function mscale(factor, m)
  return factor <= 1 and 1.0 or 0.1 * (m or 1) * math.log(factor) + 1.0
end

function scalings.yarn(f, s, base, dim, context)
  local factor = need(s, "yarn", "factor")
  local old = s.original_max_position_embeddings or context
  local function turns_to_dim(turns) return dim * math.log(old / (turns * 2 * math.pi)) / (2 * math.log(base)) end
  local low, high = turns_to_dim(s.beta_fast or 32), turns_to_dim(s.beta_slow or 1)
  if s.truncate ~= false then low, high = math.floor(low), math.ceil(high) end
  low, high = math.max(low, 0), math.min(high, dim - 1)
  if low == high then high = high + 0.001 end
  for i = 1, #f do
    local ramp = math.min(math.max((i - 1 - low) / (high - low), 0), 1)
    f[i] = f[i] / factor * ramp + f[i] * (1 - ramp)
  end
  local attention = s.attention_factor
  if not attention then
    attention = s.mscale and s.mscale_all_dim and mscale(factor, s.mscale) / mscale(factor, s.mscale_all_dim) or mscale(factor)
  end
  return f, attention
end

-- {inv_freq = list, factor = multiplies cos and sin, rotary = columns that turn} for heads of head_dim columns.
function rope_of(config, head_dim)
  local s = config.rope_parameters or config.rope_scaling or {}
  local kind = s.rope_type or s.type or "default"
  local scale = scalings[kind] or
    error(("config.json: rope scaling '%s' is not supported; supported: default, linear, llama3, yarn"):format(kind), 0)
  local base = s.rope_theta or config.rope_theta or 10000.0
  local partial = s.partial_rotary_factor or config.partial_rotary_factor or 1.0
  local rotary = math.tointeger(head_dim * partial // 1)
  if rotary < 2 or rotary % 2 ~= 0 then
    error(("config.json: %d rotary columns of a head of %d; must be even and at least 2"):format(rotary, head_dim), 0)
  end
  local f = {}
  for i = 0, rotary // 2 - 1 do f[i + 1] = 1.0 / base ^ (2 * i / rotary) end
  local inv_freq, factor = scale(f, s, base, rotary, config.max_position_embeddings or 2048)
  return { inv_freq = inv_freq, factor = factor, rotary = rotary }
end
