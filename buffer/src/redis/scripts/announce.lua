#!lua flags=allow-oom
-- KEYS register   ARGV time_ms (0: it ends) name value
local now = redis.call('TIME')
local ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
if ARGV[1] == '0' then
  redis.call('HDEL', KEYS[1], ARGV[2])
else
  redis.call('HSET', KEYS[1], ARGV[2], string.format('%.0f ', ms + tonumber(ARGV[1])) .. ARGV[3])
end
local alive = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local till, value = string.match(all[i + 1], '^(%d+) (.*)$')
  if tonumber(till) > ms then
    alive[#alive + 1] = {all[i], value}
  else
    redis.call('HDEL', KEYS[1], all[i])
  end
end
return alive
