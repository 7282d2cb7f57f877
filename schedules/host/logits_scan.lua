-- logits_scan.lua - a block takes one segment of a row: the peaks first, then, from the first cache, the exponentials.
return schedule "logits_scan" {} (function(k, a, p, s)
  k:tiles("outputs", logits_segments(p))
  local row, segment = k:block(0), k:block(1)
  local groups = logits_segment // logits_group
  local first = segment * groups
  local last = (first + groups):min(logits_groups(p))

  local top = k:frag("f32", 1, 1):set(-math.huge)
  k:range(first, last, 1, function(g)
    local peak = load_group(k, a, p, row, g):highest()
    k:store(a.peaks, { row, g }, peak)
    top:set(top:max(peak))
  end)

  local base = k:select(top:gt(-math.huge), top, 0.0)
  local sum = k:frag("f32", 1, logits_group):set(0)
  k:range(first, last, 1, function(g) sum:set(sum + (load_group(k, a, p, row, g) - base):exp()) end)
  k:store(a.segments, { row, segment, 0 }, top)
  k:store(a.segments, { row, segment, 1 }, sum:sum())
end)
