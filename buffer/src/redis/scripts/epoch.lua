#!lua flags=allow-oom
-- KEYS epochs   ARGV node
-- Never below the time: a server that lost its data must not give the name of an old log again.
local next = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0') + 1
local epoch = string.format('%.0f', math.max(next, tonumber(redis.call('TIME')[1])))
redis.call('HSET', KEYS[1], ARGV[1], epoch)
return epoch
