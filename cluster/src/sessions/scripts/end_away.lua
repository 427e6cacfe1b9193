-- ARGV client   Returns its last owner and how many messages were discarded; nil when it has no session, or is
-- connected.
local client = ARGV[1]
local held = call('HMGET', entry(client), 's', 'e', 'o', 'on', 'k')
if not held[1] or not held[5] or held[4] and is_up(held[3]) then return nil end
local messages = call('XLEN', B .. 'q:' .. held[1])
notify_taken(client, held[1], held[2], held[3], 'E')
finish(client, 0)
return { string.match(held[3] or '', '^(.*)@') or '', messages }
