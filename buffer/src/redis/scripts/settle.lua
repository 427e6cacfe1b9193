#!lua flags=allow-oom
-- KEYS meta lease writer cursors   ARGV name epoch retain_ms
-- First step of a removal: from here on nothing can be appended.
local held = redis.call('HMGET', KEYS[1], 'end', 'time', 'state')
if not held[1] then return {'gone'} end
local lease = redis.call('HMGET', KEYS[2], 'name', 'epoch')
if lease[1] ~= ARGV[1] or lease[2] ~= ARGV[2] then return {'needed'} end
if redis.call('EXISTS', KEYS[3]) == 1 then return {'needed'} end
local cursors = redis.call('HGETALL', KEYS[4])
if #cursors == 0 and held[1] ~= '0' then return {'needed'} end
for i = 2, #cursors, 2 do
  if string.match(cursors[i], '^%d+ (%d+) ') ~= held[1] then return {'needed'} end
end
local now = tonumber(redis.call('TIME')[1]) * 1000
if not held[3] and now - tonumber(held[2]) < tonumber(ARGV[3]) then return {'needed'} end
redis.call('HSET', KEYS[1], 'state', 'settled')
return {'settled', held[1], cursors}
