-- ARGV node id bytes   The node has read its inbox up to this letter.
local state, inbox = B .. 'n:' .. ARGV[1], B .. 'in:' .. ARGV[1]
if call('EXISTS', state) == 0 then return 0 end
call('XTRIM', inbox, 'MINID', string.format('%.0f-0', tonumber(ARGV[2]) + 1))
local left = call('HINCRBY', state, 'ib', '-' .. ARGV[3])
if left < 0 or call('XLEN', inbox) == 0 then call('HSET', state, 'ib', '0') end
return 1
