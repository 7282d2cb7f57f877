-- embedding.lua - y[t,:] = table[tokens[t],:], widened to f32; the table is used as the checkpoint stores it.
return operator "embedding" {
  doc = "gathers rows of the embedding table by token id",
  args = function(p)
    return { argument("tokens", "s32", { "tokens" }), argument("table", p.w, { p.vocab, p.n }), activation("y", "tokens", p.n, "f32", "out") }
  end,
  inputs = function(p, t, sizes, random)
    t.tokens:fill(function() return random.integer(0, p.vocab - 1) end)
  end,
  reference = function(p, t, sizes)
    t.y:fill(function(row, i) return i < p.n and t.table:get(math.tointeger(t.tokens:get(row)), i) or 0 end)
  end,
  tolerance = 0,
  cases = {
    { p = { vocab = 50, n = 64, w = "f32" }, sizes = { tokens = 3 } },
    { p = { vocab = 37, n = 100, w = "bf16" }, sizes = { tokens = 5 } },
    { p = { vocab = 37, n = 96, w = "f16" }, sizes = { tokens = 2 } },
    { p = { vocab = 5, n = 2600, w = "bf16" }, sizes = { tokens = 2 } },
  },
}
