-- ARGV client node clean session claim force request count, the will message's delay (empty without one) and body, most
-- bytes stored, lease_ms
local client, me, clean, new, claim = ARGV[1], ARGV[2], ARGV[3] == '1', ARGV[4], ARGV[5]
if not is_up(me) then return { 'gone' } end
local key = entry(client)
local held = call('HMGET', key, 's', 'e', 'o', 'on', 'k', 'cl', 'tk', 'h', 'b', 'tw')
local session, epoch, owner, is_on, lasts = held[1], held[2], held[3], held[4], held[5]
local is_taken, due_will, pending_will = held[7], held[10], nil

-- Decides about the will message of the connection before. Returns true when this node publishes it from now on, and
-- else whether it is being published, but for its own connection at this node.
local function succeed(will, continues, is_elsewhere)
  local kept = call('HMGET', B .. 'wm:' .. will, 'o', 'd', 'u', 'x')
  if not kept[1] then return false, false end
  local is_over = kept[4] or kept[3] and tonumber(kept[3]) <= now_ms()
  if continues and kept[2] ~= '0' and not is_over then
    drop_will(will)
    return false, false
  end
  local is_given = call('ZSCORE', B .. 'wills', will)
  if is_up(kept[1]) and (is_given or kept[4] or not is_elsewhere) then
    return false, kept[1] ~= me or is_given
  end
  give_will(will, me, tonumber(ARGV[12]))
  return true
end

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
  local before = call('HGET', B .. 'wc', client)
  due_will = nil
  if before then
    local takes, waits = succeed(before, lasts and not clean, is_elsewhere)
    due_will, pending_will = takes and before, waits and before
  end
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
  if due_will then call('HSET', key, 'tw', due_will) else call('HDEL', key, 'tw') end
  local size = #ARGV[10] + COST
  if ARGV[9] ~= '' and stored() + size <= tonumber(ARGV[11]) then
    call('HSET', B .. 'wm:' .. epoch, 'c', client, 's', session, 'd', ARGV[9], 'b', ARGV[10], 'o', me)
    call('SADD', B .. 'wn:' .. me, epoch)
    call('HSET', B .. 'wc', client, epoch)
    growth = growth + size
  end
  call('SADD', B .. 'own:' .. me, client)
  if not lasts then
    call('ZADD', B .. 't:' .. tenant_of(client), 0, string.sub(client, #tenant_of(client) + 2))
  elseif held[8] and not is_on then
    feed('k', 'P', 'c', client, 'v', '1')
  end
end
local keeps, since = call('EXISTS', B .. 'wm:' .. epoch), call('HGET', key, 'b')
local due = due_will and call('HMGET', B .. 'wm:' .. due_will, 's', 'b', 'o') or {}
due = due[3] == me and { due[1], due_will, due[2] } or {}
local pending = pending_will and { call('HGET', B .. 'wm:' .. pending_will, 's'), pending_will } or {}
if not lasts or lasts == '0' then
  return { 'claimed', session, epoch, is_taken, {}, {}, stats.left_over, keeps, due, pending, since }
end
local messages = read(B .. 'q:' .. session, '-', tonumber(ARGV[8]))
return { 'claimed', session, epoch, is_taken, call('HGETALL', key), messages, 0, keeps, due, pending, since }
