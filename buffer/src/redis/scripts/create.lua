#!lua flags=allow-oom
-- KEYS meta writer   ARGV writer heartbeat_ms unlisted_ms
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local now = redis.call('TIME')
local ms = string.format('%.0f', tonumber(now[1]) * 1000)
redis.call('HSET', KEYS[1], 'version', '1', 'writer', ARGV[1], 'end', '0', 'bytes', '0', 'freed', '0', 'start', '0',
  'epoch', '0', 'time', ms)
-- Goes by itself when its maker dies before it is listed.
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return 1
