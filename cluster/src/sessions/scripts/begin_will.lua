-- ARGV epoch node   Notes that a node publishes the will message of this claim now. Returns 0 when it is not to do so.
local key = B .. 'wm:' .. ARGV[1]
if call('HGET', key, 'o') ~= ARGV[2] then return 0 end
call('HSET', key, 'x', '1')
return 1
