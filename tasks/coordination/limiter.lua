-- One exchange between a worker and an endpoint's shared limits: the worker reports what it holds
-- and used, and receives what it may hold and use. A script is atomic, so all workers see one order
-- of events. All times are Redis's own, so the clocks of the hosts do not matter.
--
-- KEYS[1], a hash:  born         creation time of this state; a different one means it was lost
--                   cool         epoch ms before which no worker may call (Retry-After)
--                   control      JSON of adaptive.Control
--                   limits       "max_in_flight requests tokens bucket_ms" as configured, for display
--                   w:<worker>   "held peak wanted expires_ms" of a worker
--                   q:<bucket>, t:<bucket>   requests, tokens charged to a slice of time
-- ARGV[1]: JSON, written by LimiterState.ask. Returns JSON, read by LimiterState.take.
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
redis.call('PEXPIRE', key, ask.window + ask.bucket + ask.ttl + ask.max_cool)
if ask.born ~= '' and ask.born ~= born then
  -- The caller's charges refer to a lost state: it reports all of them again first.
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

-- Workers. A worker whose entry has expired is gone, and its slots are free.
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

-- What the worker learnt is stored first, also when it leaves: the others must respect its last 429.
local cool = math.max(tonumber(state.cool) or 0, ask.cool > 0 and now + ask.cool or 0)
if ask.cool > 0 then put('cool', cool) end
if ask.control_now ~= '' and ask.control_was == (state.control or '') then
  put('control', ask.control_now)
end
if ask.leave then
  put(me, nil)
  return cjson.encode({born = born, now = now})
end
workers[#workers + 1] = {name = me, wanted = ask.wanted}
local limit = ask.max_in_flight
if ask.adaptive and state.control then
  limit = math.min(limit, cjson.decode(state.control).limit)
end

-- Max-min fair shares: the worker that wants least is served first, and the rest is divided again.
-- Workers that want the same take turns for the remainder; otherwise, with more workers than slots,
-- the same ones would always have none.
local turn = math.floor(now / ask.ttl)
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
-- Slots above the target are not taken away: the worker returns them as its calls end.
local growth = math.max(0, math.min(target, limit - others) - ask.held)
put(me, string.format('%d %d %d %.0f', ask.held + growth, ask.peak, ask.wanted, now + ask.ttl))

-- Requests and tokens for the calls that can start before the next exchange: the waiting ones, and as
-- many more as began since the last one. Grant both or neither, and nothing too small for the next
-- call; otherwise two workers could each hold half of what it needs.
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
