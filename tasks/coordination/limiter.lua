-- One exchange between a worker and an endpoint's shared limits: the worker reports what it holds
-- and used, and receives what it may hold and use. A script is atomic, so all workers see one order
-- of events. All times are Redis's own, so the clocks of the hosts do not matter.
--
-- KEYS[1], a hash:  born         creation time of this state; a different one means it was lost
--                   cool         epoch ms before which no worker may call (Retry-After)
--                   control      JSON of adaptive.Control
--                   limits       "max_in_flight requests tokens bucket_ms" as configured, for display
--                   w:<worker>   "held peak wanted expires_ms" of a worker
--                   r:<worker>   its runs: JSON of [[run, weight, calls in flight and waiting], ...]
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
      put('r:' .. field:sub(3), nil)
    else
      others, in_use = others + held, in_use + peak
      -- A worker of an earlier release does not name its runs: all of them count as one.
      local runs = state['r:' .. field:sub(3)]
      workers[#workers + 1] = {
        name = field, runs = runs and cjson.decode(runs) or {{'', 1, tonumber(wanted)}},
      }
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
  put('r:' .. ask.worker, nil)
  return cjson.encode({born = born, now = now})
end
workers[#workers + 1] = {name = me, runs = ask.runs}
local named = cjson.encode(ask.runs)
if state['r:' .. ask.worker] ~= named then put('r:' .. ask.worker, named) end
local limit = ask.max_in_flight
if ask.adaptive and state.control then
  limit = math.min(limit, cjson.decode(state.control).limit)
end

-- Weighted max-min fair shares of the runs: the run that wants least for its weight is served first,
-- and the rest is divided again. What a run does not want goes to the others.
local runs, names = {}, {}
table.sort(workers, function(a, b) return a.name < b.name end)
local turn = math.floor(now / ask.ttl)
for i, w in ipairs(workers) do
  for _, run in ipairs(w.runs) do
    local name, weight, wanted = unpack(run)
    if not runs[name] then
      runs[name] = {name = name, weight = 0, wanted = 0, parts = {}}
      names[#names + 1] = name
    end
    local all = runs[name]
    -- The workers' configurations may differ for a moment; the largest weight counts.
    all.weight, all.wanted = math.max(all.weight, weight), all.wanted + wanted
    all.parts[#all.parts + 1] = {name = w.name, wanted = wanted, rank = (i + turn) % #workers}
  end
end
local poorest, weights, left, wanted = {}, 0, limit, 0
for _, name in ipairs(names) do
  poorest[#poorest + 1], weights = runs[name], weights + runs[name].weight
  wanted = wanted + runs[name].wanted
end
table.sort(poorest, function(a, b)
  local x, y = a.wanted / a.weight, b.wanted / b.weight
  return x < y or (x == y and a.name < b.name)
end)
for _, run in ipairs(poorest) do
  run.share = math.min(run.wanted, left * run.weight / weights)
  left, weights = left - run.share, weights - run.weight
end

-- Systematic rounding, with an offset that changes every second by the golden ratio: whole slots that
-- add up, and on average each run's exact share, so that a share below one slot does not starve.
local target, mine = 0, {}
local sum = math.floor(now / 1000) * 0.6180339887498949 % 1 + 1e-9
table.sort(names)
for _, name in ipairs(names) do
  local run = runs[name]
  local slots = math.floor(sum + run.share) - math.floor(sum)
  sum = sum + run.share
  -- Max-min fair shares of the workers that have calls of the run. Workers that want the same take
  -- turns for the remainder; otherwise, with more workers than slots, the same would have none.
  table.sort(run.parts, function(a, b)
    return a.wanted < b.wanted or (a.wanted == b.wanted and a.rank < b.rank)
  end)
  for i, part in ipairs(run.parts) do
    local share = math.min(part.wanted, math.floor(slots / (#run.parts - i + 1)))
    slots = slots - share
    if part.name == me then mine[name], target = share, target + share end
  end
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
  short = wanted > limit, growth = growth, target = target, shares = mine, cool = math.max(0, cool - now),
  bucket = bucket, requests = requests, tokens = tokens,
  frees = first and (first + 1) * ask.bucket + ask.window - now or 0,
})
