-- ARGV name start lease_ms   Returns also the last id of the feed, the stored bytes, waiting bytes.
local name, start = ARGV[1], ARGV[2]
local present = call('HGET', B .. 'inc', name)
if not present then return { 'gone' } end
if present ~= start then return { 'replaced' } end
local node = name .. '@' .. start
call('ZADD', B .. 'alive', int(now_ms() + tonumber(ARGV[3])), node)
local held = call('HMGET', G, 'seq', 'bytes')
return { 'here', held[1] or '0', held[2] or '0', call('HGET', B .. 'n:' .. node, 'ib') or '0' }
