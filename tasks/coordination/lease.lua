-- One exchange between a worker and the shared limits of an endpoint: what it holds and used goes
-- in, what it may hold and use comes out. One script, so that all workers see one order of events;
-- one clock, Redis's own, so that the clocks of the hosts do not matter.
--
-- KEYS[1], a hash:  born         time when this state began; another one tells that it was lost
--                   cool         ms until which nobody may call (Retry-After)
--                   control      JSON of adaptive.Control
--                   limits       "max_in_flight requests tokens bucket_ms" as configured; for readers
--                   w:<worker>   "held peak wanted expires_ms" of a worker
--                   q:<bucket>, t:<bucket>   requests, tokens charged to a slice of time
-- ARGV[1]: JSON, written by Account.ask. Returns JSON, read by Account.take.
local ask = cjson.decode(ARGV[1])
local key, me = KEYS[1], 'w:' .. ask.worker
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local state = {}
local flat = redis.call('HGETALL', key)
for i = 1, #flat, 2 do state[flat[i]] = flat[i + 1] end

local function put(field, value)
  state[field] = value
  if value then redis.call('HSET', key, field, value) else redis.call('HDEL', key, field) end
end

if not state.born then put('born', time[1] .. '.' .. time[2]) end
local born = state.born
redis.call('PEXPIRE', key, ask.window + ask.bucket + ask.lease + ask.max_cool)
if ask.born ~= '' and ask.born ~= born then
  -- The caller's books refer to a state that is gone: it charges all of them anew first.
  return cjson.encode({born = born, now = now, lost = true})
end

local configured = string.format(
  '%d %d %d %d', ask.max_in_flight, ask.requests_limit, ask.tokens_limit, ask.bucket)
if state.limits ~= configured then put('limits', configured) end

-- Windows. A slice counts until its last moment has left the window.
local oldest = math.floor((now - ask.window) / ask.bucket)
for _, change in ipairs(ask.changes) do
  local kind, bucket, n = unpack(change)
  if bucket >= oldest then
    local field = kind .. ':' .. bucket
    local charged = (tonumber(state[field]) or 0) + n
    put(field, charged > 0 and charged or nil)
  end
end
local used, first = {q = 0, t = 0}, nil
for field, value in pairs(state) do
  local kind, bucket = field:match('^([qt]):(%d+)$')
  bucket = tonumber(bucket)
  if bucket and bucket < oldest then
    put(field, nil)
  elseif bucket then
    used[kind] = used[kind] + value
    first = math.min(first or bucket, bucket)
  end
end

-- Workers. One whose lease has expired is gone, and its slots with it.
local workers, others, in_use = {}, 0, ask.peak
for field, value in pairs(state) do
  if field:sub(1, 2) == 'w:' and field ~= me then
    local held, peak, wanted, expires = value:match('(%d+) (%d+) (%d+) (%d+)')
    if tonumber(expires) <= now then
      put(field, nil)
    else
      others, in_use = others + held, in_use + peak
      workers[#workers + 1] = {name = field, wanted = tonumber(wanted)}
    end
  end
end
if ask.leave then
  put(me, nil)
  return cjson.encode({born = born, now = now})
end
workers[#workers + 1] = {name = me, wanted = ask.wanted}

if ask.control_now ~= '' and ask.control_was == (state.control or '') then
  put('control', ask.control_now)
end
local limit = ask.max_in_flight
if ask.adaptive and state.control then
  limit = math.min(limit, cjson.decode(state.control).limit)
end

-- Max-min fair shares: the worker that wants least is served first, and the rest is divided again.
-- Equal ones take turns for the remainder, lest more workers than slots leave the same ones without.
local turn = math.floor(now / ask.lease)
table.sort(workers, function(a, b) return a.name < b.name end)
for i, w in ipairs(workers) do w.rank = (i + turn) % #workers end
table.sort(workers, function(a, b)
  return a.wanted < b.wanted or (a.wanted == b.wanted and a.rank < b.rank)
end)
local left, target = limit, 0
for i, w in ipairs(workers) do
  local share = math.min(w.wanted, math.floor(left / (#workers - i + 1)))
  left = left - share
  if w.name == me then target = share end
end
-- Slots above the target are not taken: the worker gives them back as its calls end.
local growth = math.max(0, math.min(target, limit - others) - ask.held)
put(me, string.format('%d %d %d %.0f', ask.held + growth, ask.peak, ask.wanted, now + ask.lease))

local cool = math.max(tonumber(state.cool) or 0, ask.cool > 0 and now + ask.cool or 0)
if ask.cool > 0 then put('cool', cool) end

-- Requests and tokens for the calls that can start before the next exchange: those that wait for
-- them, and as many more as began since the last one. Both or none, and none that is too small for
-- the next call, lest two workers hold a half of it each.
local calls = math.min(ask.waiting, ask.free + growth) + ask.ahead
if now < cool then calls = 0 end
local requests, tokens = 0, 0
if ask.requests_limit > 0 then
  calls = math.min(calls, ask.requests + ask.requests_limit - used.q)
end
if ask.tokens_limit > 0 and calls > 0 then
  local total = ask.tokens + ask.tokens_limit - used.t
  total = math.min(math.max(ask.head, calls * ask.mean), total)
  calls = total < ask.head and 0 or math.min(calls, math.max(1, math.floor(total / ask.mean)))
  if calls > 0 then tokens = math.max(0, total - ask.tokens) end
end
if ask.requests_limit > 0 then requests = math.max(0, calls - ask.requests) end
local bucket = math.floor(now / ask.bucket)
for kind, n in pairs({q = requests, t = tokens}) do
  local field = kind .. ':' .. bucket
  if n > 0 then put(field, (tonumber(state[field]) or 0) + n) end
end

return cjson.encode({
  born = born, now = now, workers = #workers, in_use = in_use, control = state.control or '',
  growth = growth, target = target, cool = math.max(0, cool - now),
  bucket = bucket, requests = requests, tokens = tokens,
  frees = first and (first + 1) * ask.bucket + ask.window - now or 0,
})
