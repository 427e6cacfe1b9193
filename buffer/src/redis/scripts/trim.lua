#!lua flags=allow-oom
-- KEYS meta log marks cursors   ARGV retain_bytes retain_ms
local held = redis.call('HMGET', KEYS[1], 'end', 'bytes', 'freed', 'start', 'restored', 'passed')
if not held[1] then return {'gone', '0', '0', '0'} end
local bytes, freed, start = tonumber(held[2]), tonumber(held[3]), tonumber(held[4])
local passed = nil
for _, cursor in ipairs(redis.call('HVALS', KEYS[4])) do
  local done = tonumber(string.match(cursor, '^%d+ (%d+) '))
  if not passed or done < passed then passed = done end
end
local now = redis.call('TIME')
local oldest = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000) - tonumber(ARGV[2])
local from, more, before = '-', passed ~= nil and not held[5], start
-- At most so many frames for each call: the server does nothing else meanwhile.
for _ = 1, 64 do
  if not more then break end
  local marks = redis.call('XRANGE', KEYS[3], from, '+', 'COUNT', 128)
  more = #marks == 128
  for _, mark in ipairs(marks) do
    local first, count = string.match(mark[1], '^(%d+)-(%d+)$')
    local last = tonumber(first) + tonumber(count)
    local kept = bytes - freed > tonumber(ARGV[1]) or tonumber(mark[2][4]) < oldest
    if last > passed or not kept then
      more = false
      break
    end
    start, freed, from = last, tonumber(mark[2][2]), '(' .. mark[1]
  end
end
local used = string.format('%.0f', bytes - freed)
local text = string.format('%.0f', start)
if start > before then
  redis.call('XTRIM', KEYS[2], 'MINID', text .. '-0')
  redis.call('XTRIM', KEYS[3], 'MINID', text .. '-0')
  redis.call('HSET', KEYS[1], 'start', text, 'freed', string.format('%.0f', freed))
end
local known = held[6] or '0'
if passed and not held[5] and passed > tonumber(known) then
  known = string.format('%.0f', passed)
  redis.call('HSET', KEYS[1], 'passed', known)
end
return {'trimmed', text, used, known}
