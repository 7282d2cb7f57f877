-- logits_scan.lua - a block keeps one segment of a row in registers; its groups are the rows of the same tile reshaped.
return schedule "logits_scan" { settings = { warps = { 8, 4, 16 } } } (function(k, a, p, s)
  local n = math.min(logits_segment, wide_columns(math.max(p.vocab, logits_group)))
  if p.vocab > n then n = logits_segment end
  k:warps(1, math.min(s.warps, wide_warps(n, s.warps)))
  k:tiles("outputs", logits_segments(p))
  local row, segment = k:block(0), k:block(1)

  local x = k:load(a.logits, { row, segment * logits_segment }, 1, n)
  if p.vocab % n ~= 0 then
    x = k:select((k:col(n) + (segment * logits_segment):cast("s32")):lt(p.vocab), x, -math.huge)
  end
  local peaks = x:reshape(n // logits_group, logits_group):highest()
  k:store(a.peaks, { row, segment * (logits_segment // logits_group) }, peaks:reshape(1, n // logits_group))

  local top = x:highest()
  local base = k:select(top:gt(-math.huge), top, 0.0)
  k:store(a.segments, { row, segment, 0 }, top)
  k:store(a.segments, { row, segment, 1 }, (x - base):exp():reduce("add", "cols", logits_tree()))
end)
