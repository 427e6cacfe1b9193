-- ARGV tenant client…   Returns how many clients it has looked at, and of each session that lasts: its place among
-- them, owner, 1 when connected, seconds, ms until it ends (-1: never), messages, receipts, subscriptions.
local now, looked, fields, out = now_ms(), 0, 0, {}
for at = 2, #ARGV do
  if fields > 8192 then break end
  looked = looked + 1
  local client = ARGV[1] .. '\0' .. ARGV[at]
  local held = call('HMGET', entry(client), 's', 'k', 'o', 'on')
  if held[2] and held[2] ~= '0' then
    local is_on = held[4] and is_up(held[3])
    local due = not held[4] and call('ZSCORE', B .. 'expiry', client)
    local left = due and tonumber(due) - now or -1
    if not due or left > 0 then
      local receipts, subscriptions = 0, 0
      for _, name in ipairs(call('HKEYS', entry(client))) do
        fields = fields + 1
        local kind = string.sub(name, 1, 2)
        if kind == 'r:' then receipts = receipts + 1 end
        if kind == 'f:' then subscriptions = subscriptions + 1 end
      end
      out[#out + 1] = {
        at - 2, string.match(held[3] or '', '^(.*)@') or '', is_on and 1 or 0, held[2], left,
        call('XLEN', B .. 'q:' .. held[1]), receipts, subscriptions,
      }
    end
  end
end
return { looked, out }
