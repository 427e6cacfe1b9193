-- ARGV node lease_ms count   Returns will messages that are due, of nodes that have ended: client, session, epoch, body of
-- each. Without one, the ms until the next, empty when there is none.
local wills, now = B .. 'wills', now_ms()
local out, bytes = {}, 0
for _, epoch in ipairs(call('ZRANGEBYSCORE', wills, '-inf', int(now), 'LIMIT', 0, tonumber(ARGV[3]))) do
  local kept = call('HMGET', B .. 'wm:' .. epoch, 'c', 's', 'b')
  local held = kept[1] and call('HMGET', entry(kept[1]), 'on', 'o', 'tw') or {}
  if held[1] and is_up(held[2]) then
    -- The client is back, with the will message or without it.
    if held[3] == epoch then
      call('ZADD', wills, int(now + tonumber(ARGV[2])), epoch)
    else
      drop_will(epoch)
    end
  elseif kept[1] then
    give_will(epoch, ARGV[1], tonumber(ARGV[2]))
    out[#out + 1] = { kept[1], kept[2], epoch, kept[3] }
    bytes = bytes + #kept[3]
    if bytes >= REPLY then break end
  else
    call('ZREM', wills, epoch)
  end
end
if #out > 0 then return { out, '' } end
local first = call('ZRANGE', wills, 0, 0, 'WITHSCORES')
return { out, first[2] and int(math.max(tonumber(first[2]) - now, 0)) or '' }
