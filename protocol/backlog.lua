-- Adds a batch to the backlog of a broker, or removes it, atomically over all submitters.
-- KEYS: hash of bytes by batch and by incomplete group; sorted set of their expiry times; list of judge
-- messages; set of flows.
-- ARGV: batch; its bytes (empty: remove it); seconds to its expiry; maximum bytes in all (empty: no
-- limit); prefix of the keys of the flows' lists.
-- Returns whether the batch was added, the sum without it, and the judge messages that wait.
local sizes, ends = KEYS[1], KEYS[2]
local now_s = tonumber(redis.call('TIME')[1])

-- At most 100 expired entries per call; later calls remove the rest.
for _, name in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', now_s, 'LIMIT', 0, 100)) do
  strike(sizes, ends, name)
end
local counted = redis.call('HEXISTS', sizes, ARGV[1]) == 1
strike(sizes, ends, ARGV[1])
local held = tonumber(redis.call('HGET', sizes, 'sum') or 0)
if ARGV[2] == '' then return {0, held, 0} end
-- A resubmission is never refused.
if not counted and ARGV[4] ~= '' and held + ARGV[2] > tonumber(ARGV[4]) then return {0, held, 0} end
count(sizes, ends, ARGV[1], ARGV[2], now_s, tonumber(ARGV[3]))
local waiting = redis.call('LLEN', KEYS[3])
for _, flow in ipairs(redis.call('SMEMBERS', KEYS[4])) do
  waiting = waiting + redis.call('LLEN', ARGV[5] .. flow)
end
return {1, held, waiting}
