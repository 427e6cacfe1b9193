#!lua flags=allow-oom
-- KEYS meta cursors   ARGV sink epoch
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then return {'gone', '0'} end
local held = tonumber(epoch)
local cursor = redis.call('HGET', KEYS[2], ARGV[1])
if cursor then held = math.max(held, tonumber(string.match(cursor, '^(%d+) '))) end
if tonumber(ARGV[2]) < held then return {'fenced', string.format('%.0f', held)} end
redis.call('HDEL', KEYS[2], ARGV[1])
return {'forgotten', '0'}
