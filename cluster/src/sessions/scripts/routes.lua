-- ARGV cursor count   Returns the next cursor, and for each subscription its name, value, 1 when connected.
local found = call('HSCAN', B .. 'rs', ARGV[1], 'COUNT', ARGV[2])
local out, fields = {}, found[2]
for at = 1, #fields, 2 do
  local client = string.match(fields[at], '^[^%z]*%z[^%z]*')
  out[#out + 1] = fields[at]
  out[#out + 1] = fields[at + 1]
  out[#out + 1] = call('HEXISTS', entry(client), 'on')
end
return { found[1], out }
