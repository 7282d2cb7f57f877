-- pack_quantized.lua - one column block a block, lanes are columns: a pass over each group for its range, a pass to
-- round it.
return schedule "pack_quantized" {} (function(k, a, p)
  local f, padded = weight_formats[p.w], round_up(p.k, 16)
  k:tiles(ceil_div(p.n, 16))
  local block = k:block(0)

  local function weights(k0) -- [16 rows of K, 16 columns]
    return k:load(a.source, { block * 16, k0 }, 16, 16):f32():transpose()
  end

  local function scale_of(first, last)
    local low, high = k:frag("f32", 1, 16):set(0), k:frag("f32", 1, 16):set(0)
    k:range(first, last, 16, function(k0)
      local w = weights(k0)
      low:set(low:min(w:reduce("min", "rows")))
      high:set(high:max(w:reduce("max", "rows")))
    end)
    if p.w == "w8" then return high:max(-low) / 127 end
    return k:select((-low):gt(high), low, high) / -8
  end

  local function round(first, last, inverse)
    k:range(first, last, 16, function(k0)
      local q = (weights(k0) * inverse):rint() + f.zero
      q = q:max(0):min(2 * f.zero - 1):cast("s32")
      for line = 0, 16 // f.unit - 1 do
        local words = panel_words(f, function(i) return q:slice(line * f.unit + i, 1, 0, 16) end)
        store_line(k, p, a.w, block, k0 // f.unit + line, words)
      end
    end)
  end

  k:range(0, weight_groups(p), 1, function(g)
    local first = g * p.group
    local last = (first + p.group):min(padded)
    local stored = scale_of(first, last):cast(p.scale)
    k:store(a.scale, { g, block * 16 }, stored)
    local scale = stored:f32()
    round(first, last, k:select(scale:abs():gt(1e-30), 1.0 / scale, 0.0))
  end)
end)
