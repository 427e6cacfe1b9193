#!lua flags=allow-oom
-- KEYS meta writer
-- The writer is dead: what it sent and the server has not looked at yet must not be appended any more.
local last = redis.call('HGET', KEYS[1], 'end')
if not last then return false end
redis.call('HSET', KEYS[1], 'writer', '0', 'closed', '1')
redis.call('DEL', KEYS[2])
return last
