#!lua flags=allow-oom
-- KEYS reports   ARGV time_ms (0: it ends) process report
local now = redis.call('TIME')
local ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
if ARGV[1] == '0' then
  redis.call('HDEL', KEYS[1], ARGV[2])
  return {}
end
redis.call('HSET', KEYS[1], ARGV[2], string.format('%.0f ', ms + tonumber(ARGV[1])) .. ARGV[3])
redis.call('PEXPIRE', KEYS[1], 60000)
local others = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local space = string.find(all[i + 1], ' ', 1, true)
  local till = space and tonumber(string.sub(all[i + 1], 1, space - 1))
  if not till or till <= ms then
    redis.call('HDEL', KEYS[1], all[i])
  elseif all[i] ~= ARGV[2] then
    others[#others + 1] = string.sub(all[i + 1], space + 1)
  end
end
return others
