#!lua flags=allow-oom
-- KEYS meta writer   ARGV writer heartbeat_ms (0: the writer ends)
local held = redis.call('HMGET', KEYS[1], 'writer', 'state')
if held[1] ~= ARGV[1] or held[2] then return 0 end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[1], 'closed', '1')
else
  redis.call('HDEL', KEYS[1], 'lonely')
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
end
return 1
