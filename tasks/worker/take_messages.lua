-- Moves a judge message into the list of its flow, then takes messages that this worker may start:
-- at most one of each flow. Atomic: a message is in a list or leased to a worker.
-- KEYS: set of flows with messages; kombu's sorted set of leases; kombu's hash of taken messages.
-- ARGV: prefix of the flows' lists; most messages to take; flow of the message (empty: no message);
--       the message, as below; whether it returns after a lost worker, and so goes to the front;
--       then the flows of which this worker takes none.
-- A message is its delivery tag, a newline, and kombu's entry for the hash.
-- Returns the number of flows with messages left, then the messages taken.
local flows, leases, taken = KEYS[1], KEYS[2], KEYS[3]
local prefix, most, flow, message, returned = unpack(ARGV, 1, 5)
if message ~= '' then
  redis.call(returned == '1' and 'LPUSH' or 'RPUSH', prefix .. flow, message)
  redis.call('SADD', flows, flow)
end

local full = {}
for i = 6, #ARGV do full[ARGV[i]] = true end
local names = redis.call('SMEMBERS', flows)
local time = redis.call('TIME')
local now_s = string.format('%d.%06d', time[1], time[2])
local left, result = #names, {}
for i = 1, #names do
  if #result >= tonumber(most) then break end
  -- With few slots left, another flow is first each time.
  local name = names[(i + time[2]) % #names + 1]
  if not full[name] then
    local item = redis.call('LPOP', prefix .. name)
    if item then
      local tag, entry = item:match('^(.-)\n(.*)$')
      redis.call('ZADD', leases, now_s, tag)
      redis.call('HSET', taken, tag, entry)
      result[#result + 1] = item
    end
    if redis.call('EXISTS', prefix .. name) == 0 then
      redis.call('SREM', flows, name)
      left = left - 1
    end
  end
end
return {left, unpack(result)}
