#!lua flags=allow-oom
-- KEYS meta cursors   ARGV sink epoch done_to sealed_to value
local held = redis.call('HMGET', KEYS[1], 'end', 'epoch')
if not held[1] then return {'gone', '0'} end
local last, epoch = tonumber(held[1]), tonumber(held[2])
local from = 0
local cursor = redis.call('HGET', KEYS[2], ARGV[1])
if cursor then
  local old, done = string.match(cursor, '^(%d+) (%d+) ')
  epoch, from = math.max(epoch, tonumber(old)), tonumber(done)
end
local done, sealed = tonumber(ARGV[3]), tonumber(ARGV[4])
if tonumber(ARGV[2]) < epoch then return {'fenced', string.format('%.0f', epoch)} end
if done < from or sealed < done then return {'backwards', string.format('%.0f', from)} end
if sealed > last then return {'beyond', string.format('%.0f', last)} end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[5])
return {'moved', '0'}
