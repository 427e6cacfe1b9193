-- ARGV client session epoch   Returns what has become of a session since this claim of its client: (continued) by a later
-- one, (replaced) by another session, (ended), or (waits) and the ms until it ends, empty when it does not.
local client = ARGV[1]
local held = call('HMGET', entry(client), 's', 'a', 'k', 'on')
if not held[1] then return { 'ended', '' } end
if held[1] ~= ARGV[2] then return { 'replaced', '' } end
-- Not the epoch of its owner, which also changes when a node dies.
if held[2] ~= ARGV[3] then return { 'continued', '' } end
if not held[3] or held[3] == '0' then return { 'ended', '' } end
if held[3] == '4294967295' then return { 'waits', '' } end
local due = not held[4] and call('ZSCORE', B .. 'expiry', client)
local left = due and tonumber(due) - now_ms() or tonumber(held[3]) * 1000
if left <= 0 then return { 'ended', '' } end
return { 'waits', int(left) }
