#!lua flags=allow-oom
-- KEYS lease   ARGV name epoch time_ms (0: gives it back)
local held = redis.call('HMGET', KEYS[1], 'name', 'epoch')
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] then return 0 end
if ARGV[3] == '0' then
  redis.call('DEL', KEYS[1])
else
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 1
