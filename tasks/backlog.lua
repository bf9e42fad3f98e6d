-- What is under way on a broker: one step of its bookkeeping, so that submitters at once agree.
-- KEYS: a hash of bytes by batch, with their sum; a sorted set of when each batch's payloads expire.
-- ARGV: batch, its bytes (none: it leaves), seconds to its expiry, most bytes of all (none: no
-- limit). Returns whether it is counted, and the sum without it.
local sizes, ends, sum = KEYS[1], KEYS[2], 'sum'
local now = tonumber(redis.call('TIME')[1])

local function strike(batch)
  local size = redis.call('HGET', sizes, batch)
  if not size then return end
  redis.call('HINCRBY', sizes, sum, -size)
  redis.call('HDEL', sizes, batch)
  redis.call('ZREM', ends, batch)
  if redis.call('HLEN', sizes) == 1 then redis.call('DEL', sizes) end
end

-- Some at a time: the others follow with the next submissions.
for _, batch in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, 100)) do
  strike(batch)
end
local counted = redis.call('HEXISTS', sizes, ARGV[1]) == 1
strike(ARGV[1])
local held = tonumber(redis.call('HGET', sizes, sum) or 0)
if ARGV[2] == '' then return {0, held} end
-- A batch that is counted already is submitted again, and is never refused for it.
if not counted and ARGV[4] ~= '' and held + ARGV[2] > tonumber(ARGV[4]) then return {0, held} end
redis.call('HSET', sizes, ARGV[1], ARGV[2])
redis.call('HINCRBY', sizes, sum, ARGV[2])
redis.call('ZADD', ends, now + ARGV[3], ARGV[1])
redis.call('EXPIRE', sizes, ARGV[3])
redis.call('EXPIRE', ends, ARGV[3])
return {1, held}
