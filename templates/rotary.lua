-- rotary.lua - rotary position embedding of q and k, fused with what surrounds it: per-head RMSNorm of q and k (Qwen3),
-- the softmax scale on q, and the write of k and v into their pages.
--   qkv [tokens, q | k | v], each part starting at a multiple of 16 columns: p.offsets = {q, k, v}
--   inv_freq [rotary/2]: angle of pair i at position t is t * inv_freq[i]; p.factor multiplies cos and sin (yarn)
--   style "halves": pairs (i, i + rotary/2), as Hugging Face stores Llama; "interleaved": pairs (2i, 2i+1)
--   p.rotary <= head_dim: the rest of a head passes through (partial rotary)
--   kv_slot[t] = page * page_tokens + offset in the page
-- Source: Su et al. 2021, https://arxiv.org/abs/2104.09864; scalings (llama3, yarn) change inv_freq and factor only,
-- see templates/rope.lua.
local function normalised(p, t, row, first, head, name)
  local x, sum = {}, 0
  for d = 0, p.head_dim - 1 do
    x[d] = t.qkv:get(row, first + head * p.head_dim + d)
    sum = sum + x[d] ^ 2
  end
  if p.qk_norm then
    local scale = 1 / math.sqrt(sum / p.head_dim + p.eps)
    for d = 0, p.head_dim - 1 do x[d] = x[d] * scale * t[name]:get(d) end
  end
  return x
end

local function to_f32(v) return string.unpack("f", string.pack("f", v)) end

local function rotated(p, t, row, x)
  local y, half = {}, p.rotary // 2
  for d = 0, p.head_dim - 1 do y[d] = x[d] end
  for i = 0, half - 1 do
    local angle = to_f32(t.positions:get(row) * t.inv_freq:get(i))
    local c, s = math.cos(angle) * p.factor, math.sin(angle) * p.factor
    local a, b = i, i + half
    if p.style == "interleaved" then a, b = 2 * i, 2 * i + 1 end
    y[a], y[b] = x[a] * c - x[b] * s, x[b] * c + x[a] * s
  end
  return y
end

-- x[0 .. head_dim - 1] as a page of s8 stores it: codes and their scale (attention.lua).
local function rounded(p, x)
  local top, code = 0, {}
  for d = 0, p.head_dim - 1 do top = math.max(top, math.abs(x[d])) end
  for d = 0, p.head_dim - 1 do code[d] = top > 0 and math.floor(x[d] * 127 / top + 0.5) + 128 or 128 end
  return code, top / 127
end

-- Width of the sum of squares of a head: GPUs have a whole one at once.
function rotary_tree(p)
  local n = 16
  while target.gpu and n < p.head_dim do n = 2 * n end
  return n
end

return operator "rotary" {
  doc = "rotary embedding of q and k (optional q/k norm), k and v written to their pages",
  args = function(p)
    local list = {
      activation("qkv", "tokens", p.offsets[3] + p.kv_heads * p.head_dim, "f32"), argument("positions", "s32", { "tokens" }),
      argument("kv_slot", "s32", { "tokens" }), argument("inv_freq", "f32", { round_up(p.rotary // 2, 16) }),
    }
    if p.qk_norm then
      list[#list + 1] = argument("q_norm", "f32", { round_up(p.head_dim, 16) })
      list[#list + 1] = argument("k_norm", "f32", { round_up(p.head_dim, 16) })
    end
    list[#list + 1] = argument("q", query_type(p.kv), { "tokens", p.heads, p.head_dim }, "out")
    for _, d in ipairs(kv_arguments(p, "inout")) do list[#list + 1] = d end
    return list
  end,
  numerics = function(p) return { tree = rotary_tree(p) } end,
  inputs = function(p, t, sizes, random)
    t.positions:fill(function(row) return row * 1000 + 7 end)
    t.kv_slot:fill(function(row) return (row * 37) % (sizes.kv_pages * p.page) end)
    t.inv_freq:fill(function(i) return 10000 ^ (-2 * i / p.rotary) end)
  end,
  reference = function(p, t, sizes)
    for row = 0, sizes.tokens - 1 do
      local slot = math.tointeger(t.kv_slot:get(row))
      for head = 0, p.heads - 1 do
        local y = rotated(p, t, row, normalised(p, t, row, p.offsets[1], head, "q_norm"))
        for d = 0, p.head_dim - 1 do t.q:set(y[d] * p.scale, row, head, d) end
      end
      for head = 0, p.kv_heads - 1 do
        local y, v = rotated(p, t, row, normalised(p, t, row, p.offsets[2], head, "k_norm")), {}
        for d = 0, p.head_dim - 1 do v[d] = t.qkv:get(row, p.offsets[3] + head * p.head_dim + d) end
        local page, at = slot // p.page, slot % p.page
        if p.kv == "s8" then
          local scale
          y, scale = rounded(p, y)
          t.k_scales:set(scale, page, head, at)
          v, scale = rounded(p, v)
          t.v_scales:set(scale, page, head, at)
        end
        for d = 0, p.head_dim - 1 do
          local i, j = k_place(p, d, at)
          t.k_pages:set(y[d], page, head, i, j)
          t.v_pages:set(v[d], page, head, at, d)
        end
      end
    end
  end,
  tolerance = function(p) return p.kv == "f32" and 3e-6 or p.kv == "f16" and 1e-3 or 5e-3 end,
  cases = {
    { p = { heads = 4, kv_heads = 2, head_dim = 64, rotary = 64, style = "halves", factor = 1.0, scale = 0.125, page = 32, kv = "f32",
            offsets = { 0, 256, 384 } }, sizes = { tokens = 3, kv_pages = 4 } },
    { p = { heads = 8, kv_heads = 4, head_dim = 8, rotary = 8, style = "halves", factor = 1.0, scale = 0.35, page = 32, kv = "f32",
            offsets = { 0, 64, 96 } }, sizes = { tokens = 2, kv_pages = 4 } },
    { p = { heads = 4, kv_heads = 2, head_dim = 32, rotary = 32, style = "halves", factor = 1.25, scale = 0.2, page = 32, kv = "bf16",
            offsets = { 0, 128, 192 }, qk_norm = true, eps = 1e-6 }, sizes = { tokens = 2, kv_pages = 4 } },
    { p = { heads = 2, kv_heads = 1, head_dim = 64, rotary = 32, style = "interleaved", factor = 1.0, scale = 0.2, page = 32, kv = "f16",
            offsets = { 0, 128, 192 } }, sizes = { tokens = 2, kv_pages = 4 } },
    { p = { heads = 2, kv_heads = 2, head_dim = 80, rotary = 40, style = "halves", factor = 1.0, scale = 1.0, page = 32, kv = "f32",
            offsets = { 0, 160, 320 } }, sizes = { tokens = 2, kv_pages = 4 } },
    { p = { heads = 4, kv_heads = 2, head_dim = 64, rotary = 64, style = "halves", factor = 1.0, scale = 0.125, page = 32, kv = "s8",
            offsets = { 0, 256, 384 } }, sizes = { tokens = 3, kv_pages = 4 } },
  },
}
