-- logits_scan.lua - one pass over the raw logits: the largest of every group, and of every segment the largest, m, and
-- the sum of exp(x - m). Entries from `vocab` on are padding. A segment of nothing but -inf has m = -inf and the sum 0.
local function exponentials(p, t, row, first, last)
  local top, sum = -math.huge, 0
  for i = first, last - 1 do top = math.max(top, t.logits:get(row, i)) end
  for i = first, last - 1 do
    local x = t.logits:get(row, i)
    if x > -math.huge then sum = sum + math.exp(x - top) end
  end
  return top, sum
end

function logits_scan_reference(p, t, sizes)
  for row = 0, sizes.outputs - 1 do
    for g = 0, logits_groups(p) - 1 do
      local top, last = -math.huge, math.min((g + 1) * logits_group, p.vocab) - 1
      for i = g * logits_group, last do top = math.max(top, t.logits:get(row, i)) end
      t.peaks:set(top, row, g)
    end
    for s = 0, logits_segments(p) - 1 do
      local top, sum = exponentials(p, t, row, s * logits_segment, math.min((s + 1) * logits_segment, p.vocab))
      t.segments:set(top, row, s, 0)
      t.segments:set(sum, row, s, 1)
    end
  end
end

return operator "logits_scan" {
  doc = "largest logit of every group of 64; largest and sum of exponentials of every segment of 4096",
  args = function(p) return { logits_argument(p, "in"), logits_peaks(p, "out"), logits_summaries(p, "out") } end,
  numerics = function() return { tree = logits_tree(), segment = logits_segment } end,
  inputs = function(p, t, sizes, random)
    t.logits:fill(function(row, i)
      if i >= p.vocab then return 1e30 end
      if row == 1 and (i < 4200 or i % 3 == 0) then return -math.huge end
      return row == 2 and 7.5 or 5 * random.normal()
    end)
  end,
  reference = logits_scan_reference,
  tolerance = function(p, name) return name == "peaks" and 0 or 2e-8 end,
  cases = {
    { p = { vocab = 50 }, sizes = { outputs = 3 } },
    { p = { vocab = 64 }, sizes = { outputs = 1 } },
    { p = { vocab = 1003 }, sizes = { outputs = 5 } },
    { p = { vocab = 8256 }, sizes = { outputs = 3 } },
    { p = { vocab = 12345 }, sizes = { outputs = 3 } },
  },
}
