-- ARGV client session epoch after count
local held = call('HMGET', entry(ARGV[1]), 's', 'e')
if held[1] ~= ARGV[2] or held[2] ~= ARGV[3] then return {} end
return read(B .. 'q:' .. ARGV[2], '(' .. ARGV[4] .. '-0', tonumber(ARGV[5]))
