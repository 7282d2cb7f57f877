-- attention_combine.lua - a block is one token and one head; segments come through on-chip memory a few ahead.
local LOWEST = -1e30 -- as in attention.lua

return schedule "attention_combine" {
  settings = { stages = { 4, 2, 8 } },
  default = function() return { stages = math.min(4, target.gpu.stages * 2) } end,
} (function(k, a, p, s)
  local W, B = round_up(p.head_dim, 16), p.segment
  k:warps(1, 1)
  k:tiles(p.tiles, p.heads)
  local tile, head = k:block(0), k:block(1)
  local row = k:load(a.tiles, { tile, 0 })
  local position = k:load(a.positions, { row })
  local from = p.window and (position - (p.window - 1)):max(0):cast("s64") // B or k:const("s64", 0)
  local part, stats = k:shared("f32", { 1, W }), k:shared("f32", { 1, 2 })
  local Top, Sum, Out = k:frag("f32", 1, 1):set(LOWEST), k:frag("f32", 1, 1):set(0), k:frag("f32", 1, W):set(0)
  k:when(attention_spread(k, p), function()
    local base = tile * attention_segments(k, p)
    k:pipelined(from, position:cast("s64") // B + 1, 1, { stages = s.stages }, function(i)
      k:copy(k:view(part, { 0, 0 }, 1, W), k:view(a.partial, { base + i, head, 0 }, 1, W))
      k:copy(k:view(stats, { 0, 0 }, 1, 2), k:view(a.stats, { base + i, head, 0 }, 1, 2))
      local top, sum = k:load(stats, { 0, 0 }), k:load(stats, { 0, 1 })
      local new = Top:max(top)
      local old_part, weight = (Top - new):exp(), (top - new):exp()
      Top:set(new)
      Sum:set(k:fma(Sum, old_part, sum * weight))
      Out:set(k:fma(Out, old_part, k:load(part, { 0, 0 }, 1, W) * weight))
    end)
    local scale = 1.0 / Sum
    if p.sinks then
      local sink = k:load(a.sinks, { head })
      local new = Top:max(sink)
      local weight = (Top - new):exp()
      scale = weight / k:fma(Sum, weight, (sink - new):exp())
    end
    local y = (Out * scale):cast(p.out or "f32")
    if W == p.head_dim then
      k:store(a.y, { row, head * W }, y)
    else
      k:store(part, { 0, 0 }, Out * scale)
      k:store(a.y, { row, head * p.head_dim }, k:load(part, { 0, 0 }, 1, p.head_dim):cast(p.out or "f32"))
    end
  end)
end)
