-- ARGV node tenant filter…   Ends interests of a node.
local name = string.match(ARGV[1], '^(.*)@')
for at = 3, #ARGV do
  if call('HDEL', B .. 'rn:' .. ARGV[1], ARGV[2] .. '\0' .. ARGV[at]) == 1 then
    feed('k', 'I', 'n', name, 't', ARGV[2], 'f', ARGV[at], 'v', '')
  end
end
return 1
