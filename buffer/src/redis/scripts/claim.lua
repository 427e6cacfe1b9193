#!lua flags=allow-oom
-- KEYS meta lease   ARGV name address time_ms
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
local name = redis.call('HGET', KEYS[2], 'name')
if name and name ~= ARGV[1] then return false end
redis.call('HDEL', KEYS[1], 'restored')
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('HSET', KEYS[2], 'name', ARGV[1], 'address', ARGV[2], 'epoch', epoch)
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return epoch
