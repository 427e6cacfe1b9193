-- ARGV epoch node   Returns 1 when this node publishes the will message of this claim, 2 when another one does.
local node = call('HGET', B .. 'wm:' .. ARGV[1], 'o')
if not node then return 0 end
return node == ARGV[2] and 1 or 2
