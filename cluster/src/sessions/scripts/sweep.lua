-- ARGV may_bury chunk   Returns what was done: starts of nodes, clients left, sessions expired, pieces of queues,
-- sessions with messages left over, will messages of such nodes.
local chunk = tonumber(ARGV[2])
local now = int(now_ms())
local done = { 0, 0, 0, 0, 0, 0 }
if ARGV[1] == '1' then
  for _, node in ipairs(call('ZRANGEBYSCORE', B .. 'alive', '-inf', now, 'LIMIT', 0, 8)) do
    bury(node)
    done[1] = done[1] + 1
  end
end
local node = call('SRANDMEMBER', B .. 'dead')
if node then
  local clients = call('SPOP', B .. 'own:' .. node, chunk)
  for _, client in ipairs(clients) do
    local held = call('HMGET', entry(client), 'o', 'on')
    if held[1] == node and held[2] then
      -- What the start of the node submits later has no effect.
      call('HSET', entry(client), 'e', next_epoch())
      leave(client)
    end
  end
  done[2] = #clients
  -- Its clients are left by now.
  local wills = #clients < chunk and call('SPOP', B .. 'wn:' .. node, chunk) or {}
  for _, epoch in ipairs(wills) do
    local will = call('HMGET', B .. 'wm:' .. epoch, 'c', 'u')
    local claimed = will[1] and call('HGET', entry(will[1]), 'a')
    if claimed and claimed ~= epoch then
      -- The client has connected since.
      drop_will(epoch)
    elseif will[1] then
      call('ZADD', B .. 'wills', claimed and will[2] or now, epoch)
      done[6] = done[6] + 1
    end
  end
  done[2] = done[2] + #wills
  if #clients < chunk and #wills < chunk then call('SREM', B .. 'dead', node) end
end
for _, client in ipairs(call('ZRANGEBYSCORE', B .. 'expiry', '-inf', now, 'LIMIT', 0, chunk)) do
  local held = call('HMGET', entry(client), 's', 'e', 'o', 'on')
  if held[4] or not held[1] then
    call('ZREM', B .. 'expiry', client)
  else
    notify_taken(client, held[1], held[2], held[3], 'E')
    finish(client, 0)
  end
  done[3] = done[3] + 1
end
local session = call('SRANDMEMBER', B .. 'drop')
if session then
  local queue = B .. 'q:' .. session
  local entries = call('XRANGE', queue, '-', '+', 'COUNT', STEP)
  if #entries > 0 then
    local ids = {}
    for at, item in ipairs(entries) do ids[at] = item[1] end
    call('XDEL', queue, unpack(ids))
    freed(release(entries))
    done[4] = #entries
  end
  if #entries < STEP then
    call('DEL', queue)
    call('SREM', B .. 'drop', session)
  end
end
done[5] = stats.left_over
return done
