-- sampling.lua - what the two sampling operators share: how a row of logits is cut, and their launches in a plan.
--   group    64 neighbouring logits; the peak of a group is its largest one. Thresholds are looked for among the peaks
--            first, so that only groups that may hold a candidate are visited again.
--   segment  4096 neighbouring logits; max and sum of exponentials of each are computed by a block of its own and
--            combined in order (numerics contract), so that a single row keeps many threads busy.
logits_group, logits_segment = 64, 4096

-- Width of the tree that sums a segment's exponentials.
function logits_tree() return target.gpu and logits_segment or logits_group end

function logits_groups(p) return ceil_div(p.vocab, logits_group) end
function logits_segments(p) return ceil_div(p.vocab, logits_segment) end

-- Arguments: logits [outputs, vocab], peaks [outputs, groups], segments [outputs, segments, 2] {max, sum exp(x - max)}.
function logits_argument(p, access) return activation("logits", "outputs", p.vocab, "f32", access) end
function logits_peaks(p, access) return argument("peaks", "f32", { "outputs", logits_groups(p) }, access) end
function logits_summaries(p, access)
  return argument("segments", "f32", { "outputs", logits_segments(p), 2 }, access)
end

-- Group `g` (s64) of a row as a tile [1,64]; -inf behind the vocabulary. Second result: the tokens, s32 [1,64].
function load_group(k, a, p, row, g)
  local first = g * logits_group
  local x, token = k:load(a.logits, { row, first }, 1, logits_group), k:col(logits_group) + first:cast("s32")
  if p.vocab % logits_group ~= 0 then x = k:select(token:lt(p.vocab), x, -math.huge) end
  return x, token
end

-- Appends sampling to the plan. Arguments other than the three buffers between the two kernels are inputs and outputs
-- that the runtime knows by the same names.
function plan_sampling(plan)
  local p = { vocab = plan.model.vocab }
  local ids = { logits = plan:output("logits") }
  for _, d in ipairs { logits_peaks(p), logits_summaries(p), argument("saved", "f32", { "extra" }) } do
    ids[d.name] = plan:activation(d)
  end
  for _, op in ipairs { "logits_scan", "sample" } do
    local record, buffers = build(op, p), {}
    for i, d in ipairs(record.args) do
      buffers[i] = ids[d.name] or plan:io(d.name, d.access == "in" and "input" or "output")
    end
    plan:launch("sample", record, buffers)
  end
end
