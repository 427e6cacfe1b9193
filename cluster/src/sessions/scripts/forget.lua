-- ARGV tenant chunk   Returns how many clients it has deleted.
local found = call('ZPOPMIN', B .. 't:' .. ARGV[1], ARGV[2])
for at = 1, #found, 2 do
  local id = found[at]
  local client = ARGV[1] .. '\0' .. id
  local held = call('HMGET', entry(client), 's', 'e', 'o')
  notify_taken(client, held[1], held[2], held[3], 'E')
  finish(client)
end
return #found / 2
