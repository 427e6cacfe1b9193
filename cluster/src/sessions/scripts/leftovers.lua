-- ARGV pause_ms in_flight count present   Returns the client and the session of some messages that it has left over,
-- its name for the next call, and the messages; or (again), (dropped) and the client, (none) and the ms until there may
-- be some, empty when none is left over.
local pause, in_flight, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local now, left, name = now_ms(), B .. 'left', ARGV[4]
if name == '' or not call('ZSCORE', left, name) then
  name = call('ZRANGEBYSCORE', left, '-inf', int(now), 'LIMIT', 0, 1)[1]
end
if not name then
  local first = call('ZRANGE', left, 0, 0, 'WITHSCORES')
  return { 'none', first[2] and int(math.max(tonumber(first[2]) - now, 0)) or '' }
end
local tenant, session = string.match(name, '^([^%z]*)%z(.*)$')
local state, queue = B .. 'l:' .. session, B .. 'q:' .. session
local held = call('HMGET', state, 'c', 'g', 'f', 'n')
local progress = cjson.decode(held[2] or '{}')
local sent = (progress.sent_to or 0) + (progress.exact and 0 or in_flight)
local out, bytes, looked, from, is_end = {}, 0, 0, '-', false
while #out < most and bytes < REPLY and looked < 1024 and not is_end do
  local entries, gone, ids = call('XRANGE', queue, from, '+', 'COUNT', STEP), {}, {}
  for _, item in ipairs(entries) do
    local fields = item[2]
    local qos, flags = string.byte(fields[2], 2, 3)
    if flags % 4 >= 2 and (qos < 2 or tonumber(string.match(item[1], '^%d+')) > sent) then
      local body = fields[4]
      if fields[3] == 'm' then body = call('HGET', B .. 'm:' .. body, 'b') or '' end
      out[#out + 1] = { item[1], fields[2], body }
      bytes = bytes + #body
      if bytes >= REPLY then break end
    else
      gone[#gone + 1], ids[#ids + 1] = item, item[1]
    end
    from = '(' .. item[1]
  end
  if #ids > 0 then
    call('XDEL', queue, unpack(ids))
    freed(release(gone))
  end
  looked = looked + #entries
  is_end = #entries < STEP
end
if #out == 0 then
  if is_end then
    call('DEL', state, queue)
    call('ZREM', left, name)
    call('ZREM', B .. 'lt:' .. tenant, session)
  end
  return { 'again' }
end
-- One that no node can hand on keeps the others waiting for some time only.
local first = out[1][1]
local tries = first == held[3] and tonumber(held[4]) + 1 or 1
if tries > 100 then
  delete(queue, first, first)
  return { 'dropped', held[1] }
end
call('HSET', state, 'f', first, 'n', tries)
call('ZADD', left, int(now + pause), name)
return { 'found', held[1], session, name, out }
