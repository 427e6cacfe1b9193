#!lua flags=allow-oom
-- KEYS meta cursors   ARGV sink epoch done_to value
local held = redis.call('HMGET', KEYS[1], 'start', 'end', 'epoch')
if not held[1] then return {'gone', '0', '0'} end
local epoch = tonumber(held[3])
local cursor = redis.call('HGET', KEYS[2], ARGV[1])
if cursor then epoch = math.max(epoch, tonumber(string.match(cursor, '^(%d+) '))) end
if tonumber(ARGV[2]) < epoch then return {'fenced', string.format('%.0f', epoch), '0'} end
local done = tonumber(ARGV[3])
if done < tonumber(held[1]) or done > tonumber(held[2]) then return {'outside', held[1], held[2]} end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[4])
return {'rewound', '0', '0'}
