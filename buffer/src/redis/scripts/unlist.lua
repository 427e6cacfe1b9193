#!lua flags=allow-oom
-- KEYS index settled removed ends   ARGV log end (field count)*
-- Second step of a removal, once for each log: its tallies join those of all removed logs.
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
for i = 3, #ARGV, 2 do
  redis.call('HINCRBY', KEYS[2], ARGV[i], ARGV[i + 1])
end
redis.call('SADD', KEYS[3], ARGV[1])
redis.call('HSET', KEYS[4], ARGV[1], ARGV[2])
return 1
