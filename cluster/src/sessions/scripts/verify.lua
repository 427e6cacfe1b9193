-- ARGV (client session epoch)…   Returns the places of those that are no longer so, with the reason.
local out = {}
for at = 1, #ARGV, 3 do
  local held = call('HMGET', entry(ARGV[at]), 's', 'e')
  if held[1] ~= ARGV[at + 1] or held[2] ~= ARGV[at + 2] then
    out[#out + 1] = (at - 1) / 3
    out[#out + 1] = held[1] == ARGV[at + 1] and 'C' or held[1] and 'A' or 'E'
  end
end
return out
