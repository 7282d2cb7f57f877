-- norm.lua - what the specs of norms over rows (rmsnorm, layernorm) share. Parameters beside n and eps:
--   bias      an addend b beside the weight w
--   residual  x += residual first, and the sum is stored back into x
--   gather    "outputs", "hiddens": row t of the result is row output_rows[t], hidden_rows[t] of x (the rows whose logits
--             or hidden states are wanted)
--   out       the type of y; quantized forms add scales and sums, see activation.lua

local row_lists = { outputs = "output_rows", hiddens = "hidden_rows" }

function norm_rows(p) return p.gather or "tokens" end
-- The name of the argument that lists the gathered rows; nil without gather.
function norm_row_list(p) return row_lists[p.gather] end

function norm_arguments(p)
  local vector = { round_up(p.n, 16) }
  local list = { activation("x", "tokens", p.n, "f32", p.residual and "inout" or "in"), argument("w", "f32", vector) }
  if p.bias then list[#list + 1] = argument("b", "f32", vector) end
  if p.residual then list[#list + 1] = activation("residual", "tokens", p.n, "f32") end
  if p.gather then list[#list + 1] = argument(norm_row_list(p), "s32", { p.gather }) end
  for _, d in ipairs(activation_outputs(p, norm_rows(p))) do list[#list + 1] = d end
  return list
end

-- Test inputs: zeros in the padding of rows and vectors, any rows gathered.
function norm_inputs(p, t, sizes, random)
  for i = p.n, round_up(p.n, 16) - 1 do
    t.w:set(0, i)
    if p.bias then t.b:set(0, i) end
    for row = 0, sizes.tokens - 1 do
      t.x:set(0, row, i)
      if p.residual then t.residual:set(0, row, i) end
    end
  end
  if p.gather then t[norm_row_list(p)]:fill(function() return random.integer(0, sizes.tokens - 1) end) end
end

-- The reference around values_of_row(x), which takes x(i) of a row and gives the function of its results.
function norm_reference(p, t, sizes, values_of_row)
  if p.residual then
    t.x:fill(function(row, i) return t.x:get(row, i) + t.residual:get(row, i) end)
  end
  activation_reference(p, t, sizes[norm_rows(p)], function(row)
    local from = p.gather and math.tointeger(t[norm_row_list(p)]:get(row)) or row
    local value = values_of_row(function(i) return t.x:get(from, i) end)
    return function(i) return i < p.n and value(i) or 0 end
  end)
end
