#!lua flags=allow-oom
-- KEYS meta log marks writer   ARGV writer start heartbeat_ms
-- Makes a log that the server has lost again, for the writer that still has its end, and empty from START on. What the
-- server still has of it, which ends before START, stays: there is a gap between.
local held = redis.call('HMGET', KEYS[1], 'writer', 'state', 'epoch', 'end')
if held[1] and (held[1] ~= ARGV[1] or held[2]) then return 0 end
local now = redis.call('TIME')
local ms = string.format('%.0f', tonumber(now[1]) * 1000)
redis.call('HDEL', KEYS[1], 'hash', 'closed', 'lonely')
if held[1] and held[4] and tonumber(held[4]) <= tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], 'end', ARGV[2], 'time', ms, 'lost', '1')
else
  redis.call('UNLINK', KEYS[2], KEYS[3])
  -- Nothing is trimmed before a flusher has its cursors there again.
  redis.call('HSET', KEYS[1], 'version', '1', 'writer', ARGV[1], 'end', ARGV[2], 'bytes', '0', 'freed', '0',
    'start', ARGV[2], 'epoch', held[3] or '0', 'time', ms, 'restored', '1', 'lost', '1')
end
redis.call('SET', KEYS[4], ARGV[1], 'PX', ARGV[3])
return 1
