-- One exchange between a worker and the budget of a run: the worker reports what it spent and
-- reserved, and receives what it may begin. Amounts are whole nano-dollars: sums are exact.
--
-- KEYS[1], a hash:  born         creation time of this state; a different one means it was lost
--                   spent        by all calls that have ended, on record or not yet
--                   h:<holder>   "held expires_ms": reserved by a worker for calls in flight
-- ARGV[1]: JSON, written by RunBudget._request. Returns JSON, read by RunBudget._apply.
local ask = cjson.decode(ARGV[1])
local key, me = KEYS[1], 'h:' .. ask.holder
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local born = redis.call('HGET', key, 'born')
if not born then
  if ask.seed < 0 then return cjson.encode({unseeded = true}) end
  born = time[1] .. '.' .. time[2]
  redis.call('HSET', key, 'born', born, 'spent', string.format('%.0f', ask.seed))
elseif ask.born ~= '' and ask.born ~= born then
  return cjson.encode({lost = true})
end
redis.call('PEXPIRE', key, ask.keep)
if ask.spent ~= 0 then redis.call('HINCRBY', key, 'spent', string.format('%.0f', ask.spent)) end

-- A holder whose entry has expired is gone. What its calls in flight cost is unknown.
local spent, others = tonumber(redis.call('HGET', key, 'spent')), 0
local flat = redis.call('HGETALL', key)
for i = 1, #flat, 2 do
  if flat[i]:sub(1, 2) == 'h:' and flat[i] ~= me then
    local held, expires = flat[i + 1]:match('(%d+) (%d+)')
    if tonumber(expires) <= now then
      redis.call('HDEL', key, flat[i])
    else
      others = others + held
    end
  end
end

-- Waiting calls are served in order. Far from the limit, more is reserved for later calls.
local held, granted = ask.held, 0
for _, amount in ipairs(ask.waiting) do
  if spent + others + held + amount > ask.limit then break end
  held, granted = held + amount, granted + 1
end
local spare = math.max(0, math.min(ask.ahead, ask.soft - spent - others - held))
held = held + spare
if held > 0 then
  redis.call('HSET', key, me, string.format('%.0f %.0f', held, now + ask.ttl))
else
  redis.call('HDEL', key, me)
end
return cjson.encode({born = born, spent = spent, granted = granted, spare = spare})
