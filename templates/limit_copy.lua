-- limit_copy.lua - copies n floats a block: how fast this machine moves memory from one place to another.
return operator "limit_copy" {
  doc = "y = x: the machine's copy bandwidth",
  args = function(p) return { argument("x", "f32", { "rows", p.n }), argument("y", "f32", { "rows", p.n }, "out") } end,
  reference = function(p, t)
    t.y:fill(function(row, j) return t.x:get(row, j) end)
  end,
  tolerance = 0,
  cases = { { p = { n = 1024 }, sizes = { rows = 3 } } },
}
