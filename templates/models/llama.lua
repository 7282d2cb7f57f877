-- llama.lua - decoder-only transformers of the Llama family: pre-norm, rotary, grouped queries, gated MLP. The variants
-- differ in biases, per-head norms of q and k, and a sliding window; each is one line of `variants`.
local variants = {
  LlamaForCausalLM = function(c) return { qkv_bias = c.attention_bias, o_bias = c.attention_bias, mlp_bias = c.mlp_bias } end,
  MistralForCausalLM = function(c) return { window = c.sliding_window } end,
  Qwen2ForCausalLM = function(c) return { qkv_bias = true, window = c.use_sliding_window and c.sliding_window or nil } end,
  Qwen3ForCausalLM = function(c)
    return { qkv_bias = c.attention_bias, o_bias = c.attention_bias, qk_norm = true,
             window = c.use_sliding_window and c.sliding_window or nil }
  end,
}

local function attention(m, c, v, x, prefix)
  local q = m:linear(x, prefix .. "q_proj", c.heads * c.head_dim, v.qkv_bias)
  local k = m:linear(x, prefix .. "k_proj", c.kv_heads * c.head_dim, v.qkv_bias)
  local values = m:linear(x, prefix .. "v_proj", c.kv_heads * c.head_dim, v.qkv_bias)
  local norms = v.qk_norm and { q = prefix .. "q_norm.weight", k = prefix .. "k_norm.weight", eps = c.eps }
  local y = m:attention(q, k, values, { heads = c.heads, kv_heads = c.kv_heads, head_dim = c.head_dim, rope = c.rope,
                                        window = v.window, norms = norms })
  return m:linear(y, prefix .. "o_proj", c.hidden, v.o_bias)
end

local function mlp(m, c, v, x, prefix)
  local gate = m:linear(x, prefix .. "gate_proj", c.intermediate, v.mlp_bias)
  local up = m:linear(x, prefix .. "up_proj", c.intermediate, v.mlp_bias)
  return m:linear(m:mul(m:silu(gate), up), prefix .. "down_proj", c.hidden, v.mlp_bias)
end

return model {
  architectures = { "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM" },
  build = function(m, config, architecture)
    local int = m.config_integer
    local c = {
      hidden = int("hidden_size"), layers = int("num_hidden_layers"), heads = int("num_attention_heads"),
      intermediate = int("intermediate_size"), vocab = int("vocab_size"), eps = m.config_number("rms_norm_eps", 1e-6),
    }
    c.kv_heads = int("num_key_value_heads", c.heads)
    c.head_dim = int("head_dim", c.hidden // c.heads)
    c.rope = rope_of(config, c.head_dim)
    m:expect(config.hidden_act == nil or config.hidden_act == "silu", 'hidden_act is "%s", supported: "silu"', config.hidden_act)
    m:expect(c.heads % c.kv_heads == 0, "%d heads are not a multiple of %d key/value heads", c.heads, c.kv_heads)
    m:describe { hidden = c.hidden, layers = c.layers, vocab = c.vocab, kv_heads = c.kv_heads, head_dim = c.head_dim,
                 heads = c.heads, context = int("max_position_embeddings", 2048) }
    local v = variants[architecture](config)
    -- a window that only some layers use (max_window_layers) is per layer
    local window_from = v.window and config.max_window_layers and architecture:find("Qwen") and config.max_window_layers or 0
    local window = v.window

    local h = m:embedding("model.embed_tokens.weight", c.vocab, c.hidden)
    for layer = 0, c.layers - 1 do
      local prefix = "model.layers." .. layer .. "."
      v.window = layer >= window_from and window or nil
      h = m:add(h, attention(m, c, v, m:rmsnorm(h, prefix .. "input_layernorm.weight", c.eps), prefix .. "self_attn."))
      h = m:add(h, mlp(m, c, v, m:rmsnorm(h, prefix .. "post_attention_layernorm.weight", c.eps), prefix .. "mlp."))
    end
    local x = m:rmsnorm(m:output_rows(h), "model.norm.weight", c.eps)
    local tied = config.tie_word_embeddings or not (m:has("lm_head.weight") or m:has("lm_head.qweight") or m.random)
    local head = tied and "model.embed_tokens" or "lm_head"
    m:logits(m:linear(x, head, c.vocab))
  end,
}
