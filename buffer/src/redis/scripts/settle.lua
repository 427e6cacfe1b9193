#!lua flags=allow-oom
-- KEYS meta lease writer cursors   ARGV name epoch retain_ms heartbeat_ms
-- First step of a removal: from here on nothing can be appended.
local held = redis.call('HMGET', KEYS[1], 'end', 'time', 'state', 'closed', 'lonely')
if not held[1] then return {'gone'} end
local lease = redis.call('HMGET', KEYS[2], 'name', 'epoch')
if lease[1] ~= ARGV[1] or lease[2] ~= ARGV[2] then return {'needed'} end
if redis.call('EXISTS', KEYS[3]) == 1 then return {'needed'} end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
-- A writer that did not say that it ends may have lost the server as long as its heartbeat: it gets one more.
if not held[4] then
  if not held[5] then redis.call('HSET', KEYS[1], 'lonely', string.format('%.0f', now)) end
  if now - tonumber(held[5] or now) < tonumber(ARGV[4]) then return {'needed'} end
end
local cursors = redis.call('HGETALL', KEYS[4])
if #cursors == 0 and held[1] ~= '0' then return {'needed'} end
for i = 2, #cursors, 2 do
  if string.match(cursors[i], '^%d+ (%d+) ') ~= held[1] then return {'needed'} end
end
local retain = tonumber(ARGV[3])
if not held[3] and retain > 0 and now - tonumber(held[2]) < retain then return {'needed'} end
redis.call('HSET', KEYS[1], 'state', 'settled')
return {'settled', held[1], cursors}
