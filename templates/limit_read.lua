-- limit_read.lua - adds up n floats a block: how fast this machine reads memory. For `blade bench`.
return operator "limit_read" {
  doc = "y[i,j] = sum of x[i,j], x[i,j+128], ...: the machine's read bandwidth",
  args = function(p) return { argument("x", "f32", { "rows", p.n }), argument("y", "f32", { "rows", 128 }, "out") } end,
  reference = function(p, t)
    t.y:fill(function(row, j)
      local sum = 0
      for i = j, p.n - 1, 128 do sum = sum + t.x:get(row, i) end
      return sum
    end)
  end,
  tolerance = 2e-6,
  cases = { { p = { n = 1024 }, sizes = { rows = 3 } } },
}
