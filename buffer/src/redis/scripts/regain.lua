#!lua flags=allow-oom
-- KEYS meta lease   ARGV name address epoch time_ms
-- A lease that ran out or was lost, and that no other flusher has taken since.
local held = redis.call('HGET', KEYS[1], 'epoch')
if not held or tonumber(held) > tonumber(ARGV[3]) then return 0 end
local lease = redis.call('HMGET', KEYS[2], 'name', 'epoch')
if lease[1] and (lease[1] ~= ARGV[1] or tonumber(lease[2]) > tonumber(ARGV[3])) then return 0 end
redis.call('HSET', KEYS[1], 'epoch', ARGV[3])
redis.call('HDEL', KEYS[1], 'restored')
redis.call('HSET', KEYS[2], 'name', ARGV[1], 'address', ARGV[2], 'epoch', ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return 1
