-- ARGV tenant chunk   Returns how many clients, or sessions with messages left over, it has deleted.
local found = call('ZPOPMIN', B .. 't:' .. ARGV[1], ARGV[2])
for at = 1, #found, 2 do
  local id = found[at]
  local client = ARGV[1] .. '\0' .. id
  local held = call('HMGET', entry(client), 's', 'e', 'o')
  notify_taken(client, held[1], held[2], held[3], 'E')
  finish(client)
end
if #found > 0 then return #found / 2 end
local over = call('ZPOPMIN', B .. 'lt:' .. ARGV[1], ARGV[2])
for at = 1, #over, 2 do
  local session = over[at]
  call('ZREM', B .. 'left', ARGV[1] .. '\0' .. session)
  call('DEL', B .. 'l:' .. session)
  call('SADD', B .. 'drop', session)
end
return #over / 2
