-- Sorts judge messages into the lists of their flows, then takes those that this worker may start.
-- Atomic: a message is in a list or leased to a worker.
-- KEYS: queue of unsorted messages; set of flows with messages; kombu's sorted set of leases; kombu's
--       hash of taken messages.
-- ARGV: prefix of the flows' lists; most messages to take; most of one flow; a message that this
--       worker took from the queue (empty: none); then the flows of which it takes none.
-- Returns the number of flows with messages left, then the messages taken, and those that cannot be
-- sorted, which are not leased.
local queue, flows, leases, taken = unpack(KEYS)
local prefix, most, of_each, message = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local result = {}

-- Returns a message's headers, tag and address; nothing if it is not Celery's.
local function read(raw)
  local ok, decoded = pcall(cjson.decode, raw)
  local properties = ok and type(decoded) == 'table' and decoded.properties
  local place = type(properties) == 'table' and properties.delivery_info
  if type(place) ~= 'table' then return nil end
  local tag, exchange, key = properties.delivery_tag, place.exchange, place.routing_key
  if type(tag) ~= 'string' or type(exchange) ~= 'string' or type(key) ~= 'string' then return nil end
  return type(decoded.headers) == 'table' and decoded.headers or {}, tag, exchange, key
end

local function sort(raw)
  local headers = read(raw)
  if not headers then
    result[#result + 1] = raw
    return
  end
  local named = type(headers.oyer) == 'table' and headers.oyer.flow
  local flow = type(named) == 'string' and named or ''
  -- A message that returns after a lost worker is first.
  redis.call(headers.redelivered == true and 'LPUSH' or 'RPUSH', prefix .. flow, raw)
  redis.call('SADD', flows, flow)
end

if message ~= '' then sort(message) end
for _ = 1, 1000 do
  local raw = redis.call('RPOP', queue)
  if not raw then break end
  sort(raw)
end

local full = {}
for i = 5, #ARGV do full[ARGV[i]] = true end
local names = redis.call('SMEMBERS', flows)
local time = redis.call('TIME')
local now_s = string.format('%d.%06d', time[1], time[2])
local left = #names
for i = 1, #names do
  -- With few slots left, another flow is first each time.
  local name = names[(i + time[2]) % #names + 1]
  for _ = 1, full[name] and 0 or math.min(most, of_each) do
    local raw = redis.call('LPOP', prefix .. name)
    if not raw then break end
    local _, tag, exchange, key = read(raw)
    if tag then
      redis.call('ZADD', leases, now_s, tag)
      local address = cjson.encode(exchange) .. ',' .. cjson.encode(key)
      redis.call('HSET', taken, tag, '[' .. raw .. ',' .. address .. ']')
    end
    result[#result + 1], most = raw, most - 1
  end
  if redis.call('EXISTS', prefix .. name) == 0 then
    redis.call('SREM', flows, name)
    left = left - 1
  end
end
return {left, unpack(result)}
