-- ARGV name start lease_ms
local name, start = ARGV[1], ARGV[2]
local node = name .. '@' .. start
local before = call('HGET', B .. 'inc', name)
if before ~= start then
  if before then bury(name .. '@' .. before) end
  call('HSET', B .. 'inc', name, start)
  call('HSET', B .. 'n:' .. node, 'i', '0', 'ib', '0')
  feed('k', 'N', 'n', name)
end
call('ZADD', B .. 'alive', int(now_ms() + tonumber(ARGV[3])), node)
return 'joined'
