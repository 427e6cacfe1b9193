#!lua flags=allow-oom
-- KEYS[1]: what every key begins with. See scripts.rs for the keys.
local B, call = KEYS[1], redis.call
local G = B .. 'g'
-- Entries of the feed of routes, and of an inbox; bytes of an inbox that wait for its node; bytes
-- that an entry costs besides its contents.
local FEED, LETTERS, INBOX, COST = 65536, 131072, 67108864, 128
-- Messages that are read in one step, and bytes of one reply: a message may have a megabyte.
local STEP, REPLY = 16, 1048576
local stats = { appended = 0, dropped = 0, lost = 0, undelivered = 0, left_over = 0 }

local function int(number) return string.format('%.0f', number) end
local function pack(text) return #text .. ':' .. text end

local function now_ms()
  local time = call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Grows, and is at least the time in microseconds: a replica that takes over without the last ones does
-- not give them again.
local function next_epoch()
  local time = call('TIME')
  local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
  local epoch = int(math.max(tonumber(call('HGET', G, 'epoch') or '0') + 1, now))
  call('HSET', G, 'epoch', epoch)
  return epoch
end

local function entry(client) return B .. 'c:' .. client end
local function tenant_of(client) return string.match(client, '^[^%z]*') end

-- Ids of the feed have no gaps: a reader sees when it was trimmed.
local function feed(...)
  local id = int(call('HINCRBY', G, 'seq', 1)) .. '-0'
  call('XADD', B .. 'routes', 'MAXLEN', '~', FEED, id, ...)
end

local function is_up(node)
  local name, start = string.match(node, '^(.*)@([^@]*)$')
  return name and call('HGET', B .. 'inc', name) == start
end

-- State of inboxes, and the change of the stored bytes: written once, by `settle`.
local inboxes, growth, known = {}, 0, nil

local function inbox_of(node)
  local held = inboxes[node]
  if held == nil then
    local state = call('HMGET', B .. 'n:' .. node, 'i', 'ib')
    held = state[1] and { last = tonumber(state[1]), bytes = tonumber(state[2]) } or false
    inboxes[node] = held
  end
  return held
end

-- Puts a letter into a node's inbox. Ids have no gaps: its reader sees when letters are missing.
local function send(node, size, ...)
  local held = inbox_of(node)
  if not held then
    stats.undelivered = stats.undelivered + 1
    return
  end
  local key = B .. 'in:' .. node
  held.last, held.bytes, held.is_changed = held.last + 1, held.bytes + size + COST, true
  if held.bytes > INBOX then
    call('DEL', key)
    held.bytes = size + COST
    stats.undelivered = stats.undelivered + 1
  end
  call('XADD', key, 'MAXLEN', '~', LETTERS, int(held.last) .. '-0', ...)
end

local function stored()
  known = known or tonumber(call('HGET', G, 'bytes') or '0')
  return known + growth
end

local function settle()
  for node, held in pairs(inboxes) do
    if held and held.is_changed then
      held.is_changed = false
      call('HSET', B .. 'n:' .. node, 'i', int(held.last), 'ib', int(held.bytes))
    end
  end
  local grown = growth
  growth = 0
  if grown ~= 0 then call('HINCRBY', G, 'bytes', int(grown)) end
end

-- Removes the references that these entries of a queue are; returns the bytes that this frees.
local function release(entries)
  local bytes = 0
  for _, item in ipairs(entries) do
    local fields = item[2]
    bytes = bytes + COST
    if fields[3] == 'b' then
      bytes = bytes + #fields[4]
    else
      local body = B .. 'm:' .. fields[4]
      if call('HINCRBY', body, 'n', -1) <= 0 then
        bytes = bytes + call('HSTRLEN', body, 'b')
        call('DEL', body)
      end
    end
  end
  return bytes
end

local function freed(bytes) growth = growth - bytes end

-- Deletes the entries of a queue from one number to another, both included.
local function delete(queue, from, to)
  while true do
    local entries, ids = call('XRANGE', queue, from, to, 'COUNT', STEP), {}
    for at, item in ipairs(entries) do ids[at] = item[1] end
    if #ids > 0 then
      call('XDEL', queue, unpack(ids))
      freed(release(entries))
    end
    if #entries < STEP then break end
  end
  if call('XLEN', queue) == 0 then call('DEL', queue) end
end

-- The node of an ownership gets the reason why it has lost it: (C) the session continues elsewhere,
-- (A) another one has begun, (E) it has ended.
local function notify_taken(client, session, epoch, node, reason)
  if node and is_up(node) then send(node, #client, 'k', 'T', 'c', client, 's', session, 'e', epoch, 'v', reason) end
end

-- Keeps the queue of a session that ends, for members of its shared subscriptions, from a time on.
local function leave_over(client, session, progress, grace)
  local tenant = tenant_of(client)
  call('HSET', B .. 'l:' .. session, 'c', client, 'g', progress or '{}')
  call('ZADD', B .. 'left', int(now_ms() + grace), tenant .. '\0' .. session)
  call('ZADD', B .. 'lt:' .. tenant, 0, session)
  stats.left_over = stats.left_over + 1
end

-- A will message is no longer kept.
local function drop_will(epoch)
  local key = B .. 'wm:' .. epoch
  local held = call('HMGET', key, 'o', 'c')
  if not held[1] then return end
  freed(COST + call('HSTRLEN', key, 'b'))
  call('DEL', key)
  call('SREM', B .. 'wn:' .. held[1], epoch)
  call('ZREM', B .. 'wills', epoch)
  if call('HGET', B .. 'wc', held[2]) == epoch then call('HDEL', B .. 'wc', held[2]) end
end

-- A node publishes a will message that is due. When it does not in time, another one does.
local function give_will(epoch, node, lease)
  local key = B .. 'wm:' .. epoch
  call('SREM', B .. 'wn:' .. (call('HGET', key, 'o') or ''), epoch)
  call('HSET', key, 'o', node)
  call('HDEL', key, 'x')
  call('ZADD', B .. 'wills', int(now_ms() + lease), epoch)
end

-- Ends the session of a client, and deletes its entry. A long queue is left to the sweeper. Other members
-- get the messages of its shared subscriptions after some ms, unless its tenant is gone (nil).
local function finish(client, grace)
  local key = entry(client)
  local held = call('HMGET', key, 's', 'o', 'k', 'h', 'g')
  if not held[1] then return end
  local will = call('HGET', B .. 'wc', client)
  if will and not grace then
    drop_will(will)
  elseif will and call('ZSCORE', B .. 'wills', will) and not is_up(call('HGET', B .. 'wm:' .. will, 'o')) then
    call('ZADD', B .. 'wills', int(now_ms()), will)
  end
  if held[3] then
    local routes, gone = {}, false
    for _, name in ipairs(call('HKEYS', key)) do
      if string.sub(name, 1, 2) == 'f:' then
        gone = true
        routes[#routes + 1] = client .. '\0' .. string.sub(name, 3)
        if #routes == 1000 then
          call('HDEL', B .. 'rs', unpack(routes))
          routes = {}
        end
      end
    end
    if #routes > 0 then call('HDEL', B .. 'rs', unpack(routes)) end
    if gone then feed('k', 'E', 'c', client, 's', held[1]) end
    local queue = B .. 'q:' .. held[1]
    local length = call('XLEN', queue)
    if held[4] and grace and length > 0 then
      leave_over(client, held[1], held[5], grace)
    elseif length <= 64 then
      delete(queue, '-', '+')
    else
      call('SADD', B .. 'drop', held[1])
    end
    call('ZREM', B .. 'expiry', client)
  end
  call('DEL', key)
  call('ZREM', B .. 't:' .. tenant_of(client), string.sub(client, #tenant_of(client) + 2))
  if held[2] then call('SREM', B .. 'own:' .. held[2], client) end
end

-- Notes the end of a session without a connection, from now on. The longest time has no end.
local function await_expiry(client, secs)
  if secs ~= '4294967295' then
    call('ZADD', B .. 'expiry', int(now_ms() + tonumber(secs) * 1000), client)
  else
    call('ZREM', B .. 'expiry', client)
  end
end

-- The client is no longer connected: a session that lasts waits, another one ends.
local function leave(client)
  local key = entry(client)
  local held = call('HMGET', key, 'k', 'o', 'h', 'a')
  if not held[1] or held[1] == '0' then return finish(client, 0) end
  call('HDEL', key, 'on', 'cl', 'tk', 'tw')
  local will = B .. 'wm:' .. held[4]
  local delay = call('HGET', will, 'd')
  if delay then call('HSET', will, 'u', int(now_ms() + math.min(tonumber(delay), tonumber(held[1])) * 1000)) end
  call('SREM', B .. 'own:' .. held[2], client)
  if held[3] then
    feed('k', 'P', 'c', client, 'v', '0')
  end
  await_expiry(client, held[1])
end

-- Ends a start of a node. What it owned is left to the sweeper.
local function bury(node)
  local name, start = string.match(node, '^(.*)@([^@]*)$')
  if call('HGET', B .. 'inc', name) == start then
    call('HDEL', B .. 'inc', name)
    feed('k', 'D', 'n', name)
  end
  call('ZREM', B .. 'alive', node)
  call('UNLINK', B .. 'in:' .. node, B .. 'rn:' .. node, B .. 'n:' .. node)
  call('SADD', B .. 'dead', node)
end

-- Entries of a queue with their messages: at least one, if there is any.
local function read(queue, from, count)
  local out, bytes = {}, 0
  while #out < count and bytes < REPLY do
    local entries = call('XRANGE', queue, from, '+', 'COUNT', STEP)
    for _, item in ipairs(entries) do
      local fields = item[2]
      local body = fields[4]
      if fields[3] == 'm' then body = call('HGET', B .. 'm:' .. body, 'b') or '' end
      out[#out + 1] = { item[1], fields[2], body }
      bytes = bytes + #body
      if bytes >= REPLY then break end
    end
    if #entries < STEP then break end
    from = '(' .. out[#out][1]
  end
  return out
end

