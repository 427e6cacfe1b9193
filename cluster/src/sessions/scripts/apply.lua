-- ARGV writer batch first node most_messages most_bytes policy, then changes: see changes.rs.
-- Returns whether it was applied before, the numbers of changes that were refused, counted from 0, with
-- `!` behind one that has failed, the first failure, and figures.
local writer, batch, first, me = B .. 'w:' .. ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local most_messages, most_bytes, policy = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
-- Refusals of all batches that are sent together: `;BATCH=NUMBERS`.
local noted = call('HMGET', writer, 'n', 'r', 'l')
local last, refusals = tonumber(noted[1] or '0'), noted[2] or ''
if last < first then refusals = '' end
-- The last message with a receipt was refused: so are its further parts, in later batches too.
local is_last_lost = noted[3] == '1'
local function note()
  -- A write also for a repetition, so that a WAIT behind it covers the first one.
  call('HSET', writer, 'n', int(math.max(last, batch)), 'r', refusals, 'l', is_last_lost and '1' or '0')
  call('EXPIRE', writer, 86400)
end
if batch <= last then
  note()
  return { 'again', string.match(refusals, ';' .. int(batch) .. '=([^;]*)') or '', '', 0, 0, 0, 0, 0 }
end

local at = 7
local function take()
  at = at + 1
  return ARGV[at]
end

local function owns(client, session, epoch)
  local held = call('HMGET', entry(client), 's', 'e')
  return held[1] == session and held[2] == epoch
end

-- The present change has no effect: its node does not own the client.
local is_refused = false

-- The owned client of a change, and its session; nil when the change has no effect.
local function owned()
  local client, session, epoch = take(), take(), take()
  if owns(client, session, epoch) then return client, session end
  is_refused = true
end

-- The same for a change of a session that lasts.
local function kept()
  local client, session = owned()
  if client and call('HEXISTS', entry(client), 'k') == 1 then return client, session end
  is_refused = true
end

-- Deletes messages that the client has.
local function trim(session, done_to, ranges)
  local queue = B .. 'q:' .. session
  if call('EXISTS', queue) == 0 then return end
  delete(queue, '-', done_to)
  for from, to in string.gmatch(ranges, '(%d+)-(%d+)') do delete(queue, from, to) end
end

-- True when a message has room in the session's queue.
local function has_room(key, queue, held, client, session, size)
  local function is_full()
    return call('XLEN', queue) >= most_messages or stored() + size > most_bytes
  end
  if not is_full() then return true end
  if policy == 'oldest' then
    local first = call('XRANGE', queue, '-', '+', 'COUNT', 1)
    if #first > 0 then
      call('XDEL', queue, first[1][1])
      freed(release(first))
      stats.dropped = stats.dropped + 1
    end
    if not is_full() then return true end
    stats.dropped = stats.dropped + 1
  elseif policy == 'newest' then
    stats.dropped = stats.dropped + 1
  else
    stats.lost = stats.lost + 1
    call('HSET', key, 'lost', '1')
    if held[5] then send(held[4], #client, 'k', 'L', 'c', client, 's', session, 'e', held[6]) end
  end
  return false
end

-- Whether a message is of a shared subscription, and for a client that has to be connected: see codec.rs.
local function shares(placed)
  local flags = string.byte(placed, 3)
  return flags % 4 >= 2, flags % 8 >= 4
end

local function message()
  local body, receipt, is_lost = take(), take(), false
  if receipt == '+' then
    is_lost = is_last_lost
  elseif receipt == 'w' then
    -- A will message.
    is_last_lost = true
    local _, _, epoch = take(), take(), take()
    is_lost = call('HGET', B .. 'wm:' .. epoch, 'o') ~= me
    is_refused, is_last_lost = is_lost, is_lost
    if not is_lost then drop_will(epoch) end
  elseif receipt ~= '' then
    -- In a failure, too.
    is_last_lost = true
    -- Also after another claim by this node, whose connections wait for each other's messages. Any other
    -- connection gets the message from the client again.
    local client, session, epoch = take(), take(), tonumber(take())
    local held = call('HMGET', entry(client), 's', 'e', 'b', 'k')
    local since = tonumber(held[3] or held[2] or '0')
    is_lost = not (held[1] == session and epoch >= since and epoch <= tonumber(held[2]) and held[4])
    is_refused, is_last_lost = is_lost, is_lost
    if not is_lost then call('HSET', entry(client), 'r:' .. receipt, '1') end
  end
  local count, shared, owners = tonumber(take()), nil, {}
  local function put(queue, number, placed)
    local bytes = COST
    if count == 1 then
      call('XADD', queue, number .. '-0', 'p', placed, 'b', body)
      bytes = bytes + #body
    else
      if not shared then
        shared = int(call('HINCRBY', G, 'mid', 1))
        call('HSET', B .. 'm:' .. shared, 'b', body)
        bytes = bytes + #body
      end
      -- Counted at once: a queue that drops its oldest message may release this one.
      call('HINCRBY', B .. 'm:' .. shared, 'n', 1)
      call('XADD', queue, number .. '-0', 'p', placed, 'm', shared)
    end
    growth = growth + bytes
    stats.appended = stats.appended + 1
  end
  for _ = 1, count do
    local client, session, placed = take(), take(), take()
    local key, queue = entry(client), B .. 'q:' .. session
    local held = call('HMGET', key, 's', 'k', 'n', 'o', 'on', 'e', 'lost')
    local is_there, of_share, for_connected = held[1] == session and held[2], shares(placed)
    if is_lost then
      -- No session gets it.
    elseif of_share and not (is_there and (held[5] or not for_connected)) then
      if stored() + #body <= most_bytes then
        -- As the message of a session of its own.
        local stray = next_epoch()
        leave_over(client, stray, '{"exact":true}', 0)
        put(B .. 'q:' .. stray, '1', placed)
      else
        stats.dropped = stats.dropped + 1
      end
    elseif is_there and not held[7] and has_room(key, queue, held, client, session, #body) then
      local number = int(tonumber(held[3] or '0') + 1)
      call('HSET', key, 'n', number)
      put(queue, number, placed)
      if held[5] then
        local list = owners[held[4]] or {}
        owners[held[4]] = list
        list[#list + 1] = pack(client) .. pack(session) .. pack(held[6]) .. pack(number) .. pack(placed)
      end
    end
  end
  for node, list in pairs(owners) do
    local takers = table.concat(list)
    send(node, #body + #takers, 'k', 'M', 'b', body, 't', takers)
  end
end

-- Moves a message that was left over to a session that lasts; false when that is not there, or not connected as it has
-- to be.
local function move(item, client, session, placed)
  local key, queue, fields = entry(client), B .. 'q:' .. session, item[2]
  local held = call('HMGET', key, 's', 'k', 'n', 'o', 'on', 'e', 'lost')
  if held[1] ~= session or not held[2] then return false end
  local _, for_connected = shares(placed)
  if for_connected and not held[5] then return false end
  if held[7] or not has_room(key, queue, held, client, session, 0) then
    freed(release({ item }))
    return true
  end
  local number = int(tonumber(held[3] or '0') + 1)
  call('HSET', key, 'n', number)
  call('XADD', queue, number .. '-0', 'p', placed, fields[3], fields[4])
  stats.appended = stats.appended + 1
  if held[5] then
    local body = fields[4]
    if fields[3] == 'm' then body = call('HGET', B .. 'm:' .. body, 'b') or '' end
    local taker = pack(client) .. pack(session) .. pack(held[6]) .. pack(number) .. pack(placed)
    send(held[4], #body + #taker, 'k', 'M', 'b', body, 't', taker)
  end
  return true
end

local changes = {
  H = function()
    local from, session, number, kind, to = take(), take(), take() .. '-0', take(), take()
    local queue, held = B .. 'q:' .. session, call('HMGET', entry(from), 's', 'on')
    local is_away = held[1] == session and not held[2]
    local is_open = is_away or call('EXISTS', B .. 'l:' .. session) == 1
    local item = is_open and call('XRANGE', queue, number, number)[1]
    if not item then
      is_refused = kind ~= ''
    elseif kind == 's' then
      if move(item, to, take(), take()) then call('XDEL', queue, number) else is_refused = true end
    else
      if kind == 'n' then
        local body, node = take(), to == '' and me or to .. '@' .. (call('HGET', B .. 'inc', to) or '')
        if not is_up(node) then
          is_refused = true
          return
        end
        send(node, #body, 'k', 'F', 'b', body)
      end
      call('XDEL', queue, number)
      freed(release({ item }))
    end
    if is_away and call('XLEN', queue) == 0 then call('DEL', queue) end
  end,
  K = function()
    local client = owned()
    local secs = take()
    if not client then return end
    call('HSET', entry(client), 'k', secs)
    if call('HEXISTS', entry(client), 'on') == 0 then await_expiry(client, secs) end
  end,
  S = function()
    local client, session = kept()
    local filter, value, is_shared = take(), take(), take() == '1'
    if not client then return end
    local key = entry(client)
    call('HSET', key, 'f:' .. filter, value)
    call('HSET', B .. 'rs', client .. '\0' .. filter, session .. ' ' .. value)
    if is_shared then call('HSET', key, 'h', '1') end
    feed('k', 'S', 'c', client, 's', session, 'f', filter, 'v', value, 'p', call('HEXISTS', key, 'on'))
  end,
  U = function()
    local client, session = kept()
    local filter = take()
    if client and call('HDEL', entry(client), 'f:' .. filter) == 1 then
      call('HDEL', B .. 'rs', client .. '\0' .. filter)
      feed('k', 'U', 'c', client, 's', session, 'f', filter)
    end
  end,
  r = function()
    local client = kept()
    local packet = take()
    if client then call('HSET', entry(client), 'r:' .. packet, '1') end
  end,
  R = function()
    local client = kept()
    local packet = take()
    if client then call('HDEL', entry(client), 'r:' .. packet) end
  end,
  L = function()
    local client, session = kept()
    local released, progress, done_to, ranges = take(), take(), take(), take()
    if not client then return end
    call('HSET', entry(client), 'R', released, 'g', progress)
    trim(session, done_to, ranges)
  end,
  P = function()
    local client, session = kept()
    local progress, done_to, ranges = take(), take(), take()
    if not client then return end
    call('HSET', entry(client), 'g', progress)
    trim(session, done_to, ranges)
  end,
  Y = function()
    local client = kept()
    local walks = take()
    if client and walks == '' then
      call('HDEL', entry(client), 'y')
    elseif client then
      call('HSET', entry(client), 'y', walks)
    end
  end,
  V = function()
    local client = owned()
    if client then leave(client) end
  end,
  W = function()
    local _, _, epoch = take(), take(), take()
    if call('HGET', B .. 'wm:' .. epoch, 'o') == me then drop_will(epoch) end
  end,
  X = function()
    local client = owned()
    if client then finish(client, 0) end
  end,
  C = function()
    local client, claim = take(), take()
    local held = call('HMGET', entry(client), 'cl', 'a')
    if held[1] == claim then
      drop_will(held[2])
      leave(client)
    end
  end,
  M = message,
  I = function()
    local tenant, filter, value = take(), take(), take()
    if not is_up(me) then return end
    local name = tenant .. '\0' .. filter
    if value == '' then
      call('HDEL', B .. 'rn:' .. me, name)
    else
      call('HSET', B .. 'rn:' .. me, name, value)
    end
    feed('k', 'I', 'n', string.match(me, '^(.*)@'), 't', tenant, 'f', filter, 'v', value)
  end,
  A = function()
    local name, request = take(), take()
    send(name .. '@' .. (call('HGET', B .. 'inc', name) or ''), 0, 'k', 'A', 'r', request)
  end,
  G = function()
    local name, tenant = take(), take()
    send(name .. '@' .. (call('HGET', B .. 'inc', name) or ''), #tenant, 'k', 'G', 't', tenant)
  end,
  F = function()
    local body, count = take(), tonumber(take())
    for _ = 1, count do
      local name = take()
      local start = call('HGET', B .. 'inc', name)
      if start then
        send(name .. '@' .. start, #body, 'k', 'F', 'b', body)
      else
        stats.undelivered = stats.undelivered + 1
      end
    end
  end,
}

local refused, failure = {}, ''

-- Calls a step. One that fails must not end the script: what was done is not undone.
local function try(name, step)
  local done, fault = pcall(step)
  if done then return true end
  if type(fault) == 'table' then fault = fault.err end
  if failure == '' then failure = name .. ': ' .. tostring(fault) end
end

local number = 0
while at < #ARGV do
  local kind, count = take(), tonumber(take())
  local behind = at + count
  is_refused = false
  if not try(kind, changes[kind]) then
    refused[#refused + 1] = number .. '!'
  elseif is_refused then
    refused[#refused + 1] = number
  end
  at, number = behind, number + 1
end
try('figures', settle)
local numbers = table.concat(refused, ',')
if numbers ~= '' then refusals = refusals .. ';' .. int(batch) .. '=' .. numbers end
note()
return { 'done', numbers, failure, stats.appended, stats.dropped, stats.lost, stats.undelivered, stats.left_over }
