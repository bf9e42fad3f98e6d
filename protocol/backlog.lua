-- What is under way on a broker: one step of its bookkeeping, so that submitters at once agree.
-- KEYS: the sizes by batch and by incomplete group, and when each one's payloads expire.
-- ARGV: batch, its bytes (none: it leaves), seconds to its expiry, most bytes of all (none: no
-- limit). Returns whether it is counted, and the sum without it.
local sizes, ends = KEYS[1], KEYS[2]
local now_s = tonumber(redis.call('TIME')[1])

-- Some at a time: the others follow with the next submissions.
for _, name in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', now_s, 'LIMIT', 0, 100)) do
  strike(sizes, ends, name)
end
local counted = redis.call('HEXISTS', sizes, ARGV[1]) == 1
strike(sizes, ends, ARGV[1])
local held = tonumber(redis.call('HGET', sizes, 'sum') or 0)
if ARGV[2] == '' then return {0, held} end
-- A batch that is counted already is submitted again, and is never refused for it.
if not counted and ARGV[4] ~= '' and held + ARGV[2] > tonumber(ARGV[4]) then return {0, held} end
count(sizes, ends, ARGV[1], ARGV[2], now_s, tonumber(ARGV[3]))
return {1, held}
