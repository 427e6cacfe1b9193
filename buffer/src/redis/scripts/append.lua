#!lua
-- KEYS meta log marks   ARGV writer first count end bytes_limit frame hash time_ms overhead
local held = redis.call('HMGET', KEYS[1], 'writer', 'end', 'bytes', 'freed', 'start', 'hash', 'state', 'passed')
if not held[1] then return {'gone', '0', '0', '0'} end
if held[1] ~= ARGV[1] or held[7] then return {'taken', '0', '0', '0'} end
local bytes, freed = tonumber(held[3]), tonumber(held[4])
local passed = held[8] or '0'
local used = string.format('%.0f', bytes - freed)
if held[2] == ARGV[4] and held[6] == ARGV[7] then
  -- The retry of what is there. A write, so that a WAIT behind it covers the first one, too.
  redis.call('HSET', KEYS[1], 'hash', ARGV[7])
  return {'stored', held[5], used, passed}
end
if held[2] ~= ARGV[2] then return {'torn', held[2], used, passed} end
local size = #ARGV[6] + tonumber(ARGV[9])
if bytes > freed and bytes - freed + size > tonumber(ARGV[5]) then return {'full', held[5], used, passed} end
bytes = string.format('%.0f', bytes + size)
local id = ARGV[2] .. '-' .. ARGV[3]
redis.call('XADD', KEYS[2], id, 'f', ARGV[6])
redis.call('XADD', KEYS[3], id, 'b', bytes, 't', ARGV[8])
redis.call('HSET', KEYS[1], 'end', ARGV[4], 'bytes', bytes, 'hash', ARGV[7], 'time', ARGV[8])
return {'stored', held[5], string.format('%.0f', tonumber(bytes) - freed), passed}
