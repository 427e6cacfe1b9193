-- ARGV client node clean session claim force request count
local client, me, clean, new, claim = ARGV[1], ARGV[2], ARGV[3] == '1', ARGV[4], ARGV[5]
if not is_up(me) then return { 'gone' } end
local key = entry(client)
local held = call('HMGET', key, 's', 'e', 'o', 'on', 'k', 'cl', 'tk', 'h', 'b')
local session, epoch, owner, is_on, lasts = held[1], held[2], held[3], held[4], held[5]
local is_taken = held[7]
if held[6] ~= claim then
  local is_elsewhere = is_on and owner ~= me and is_up(owner)
  if is_elsewhere and ARGV[6] == '0' then
    send(owner, #client, 'k', 'H', 'c', client, 'n', string.match(me, '^(.*)@'), 'r', ARGV[7])
    return { 'wait' }
  end
  if owner then call('SREM', B .. 'own:' .. owner, client) end
  if lasts == '0' then lasts = false end
  local due = lasts and not is_on and call('ZSCORE', B .. 'expiry', client)
  if due and tonumber(due) <= now_ms() then clean = true end
  if owner ~= me then notify_taken(client, session, epoch, owner, lasts and not clean and 'C' or 'A') end
  if lasts and not clean then
    call('ZREM', B .. 'expiry', client)
  else
    -- Its node may be sending at this moment: it has time to drop what it has sent.
    finish(client, is_on and is_up(owner) and 1000 or 0)
    session, lasts = new, false
  end
  epoch = next_epoch()
  is_taken = is_elsewhere and '1' or '0'
  -- The epoch since which the client was connected to this node alone.
  local since = is_on and owner == me and held[9] or epoch
  call('HSET', key, 's', session, 'e', epoch, 'b', since, 'a', epoch, 'o', me, 'on', '1', 'cl', claim, 'tk', is_taken)
  call('SADD', B .. 'own:' .. me, client)
  if not lasts then
    call('ZADD', B .. 't:' .. tenant_of(client), 0, string.sub(client, #tenant_of(client) + 2))
  elseif held[8] and not is_on then
    feed('k', 'P', 'c', client, 'v', '1')
  end
end
if not lasts or lasts == '0' then return { 'claimed', session, epoch, is_taken, {}, {}, stats.left_over } end
return { 'claimed', session, epoch, is_taken, call('HGETALL', key), read(B .. 'q:' .. session, '-', tonumber(ARGV[8])), 0 }
