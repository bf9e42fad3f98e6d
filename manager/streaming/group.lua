-- The state of one group of rollouts; docs/internals/group_store.md. Times are those of Redis, in ms.
-- KEYS[1]: list of the names of the latest generations, newest first. A name is never reused, even if
-- Redis loses its data. A generation is a hash KEYS[1]:<name> and, until it has a batch, a list
-- KEYS[1]:<name>:rows of the packed rollouts: ids, rollouts, token ids.
-- ARGV: operation, its arguments as JSON, and for `join` the packed rollouts.
-- `join` without ids reads one generation. The other operations take several groups: KEYS, and
-- args.generations in the same order.
--
-- States of a generation, in order:
--   open       rollouts join
--   claimed    no rollout joins; the process with the claim (token, until lease) submits the batch
--   published  the batch is in Redis and its id is final; its tasks may not be sent
--   sent       the tasks are sent
--   failed     the group was overdue under the policy `error`
-- Field m:<id> is the row of a rollout; x:<name> is a rollout that will not come, `absent` their number;
-- w:<mailbox> is a process to notify of changes. A generation without rollouts (n = 0) only holds what
-- `close` has said about those to come.

local base, operation, args = KEYS[1], ARGV[1], cjson.decode(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local REMEMBERED = 4

local function key(generation)
  return base .. ':' .. generation
end

local function newest()
  return redis.call('LINDEX', base, 0)
end

local function notify(at)
  for _, field in ipairs(redis.call('HKEYS', at)) do
    local box = string.match(field, '^w:(.+)$')
    if box and box ~= args.mailbox then
      redis.call('RPUSH', box, base)
      redis.call('PEXPIRE', box, args.expires_ms)
    end
  end
end

local function claim(at)
  redis.call('HSET', at, 'token', args.token, 'lease', now + args.lease_ms)
end

local function expire_soon(generation)
  redis.call('PEXPIRE', key(generation), args.memory_ms)
  if newest() == generation then
    redis.call('PEXPIRE', base, args.memory_ms)
  end
end

-- The backlog counts the rollouts of an open group; after that, it counts the batch.
local function close(at, state)
  redis.call('HSET', at, 'state', state)
  strike(args.backlog[1], args.backlog[2], at)
end

local function close_overdue(generation)
  local at = key(generation)
  redis.call('HSET', at, 'late', 1, 'waited', now - (redis.call('HGET', at, 'opened') or now))
  if redis.call('HGET', at, 'policy') == 'error' then
    close(at, 'failed')
    redis.call('UNLINK', at .. ':rows')
    expire_soon(generation)
    notify(at)
  else
    close(at, 'claimed')
    claim(at)
  end
end

-- Returns a generation as this process sees it. Closes it if it is overdue, and claims it if no claim is
-- valid. Omits the packed rollouts if this call has added all of them.
local function view(generation, added)
  local at = key(generation)
  local field = {}
  local names = {'state', 'n', 'policy', 'step', 'due', 'lease', 'token', 'batch', 'start', 'verdicts',
    'late', 'told', 'waited'}
  local values = redis.call('HMGET', at, unpack(names))
  for i, name in ipairs(names) do field[name] = values[i] or nil end
  if not field.state then
    return {cjson.encode({generation = generation, state = 'gone'}), {}}
  end
  if field.state == 'open' and now >= tonumber(field.due) then
    if is_overdue(at, tonumber(field.due), now) then close_overdue(generation) end
    return view(generation, added)
  end
  local state = {
    generation = generation, state = field.state, n = tonumber(field.n), policy = field.policy,
    step = tonumber(field.step), late = field.late == '1',
    told = field.told == '1', waited_ms = tonumber(field.waited),
  }
  local rows = {}
  if field.state == 'open' then
    state.wait_ms = tonumber(field.due) - now
  elseif field.state == 'sent' then
    state.batch = field.batch
    state.start = tonumber(field.start)
    state.verdicts = tonumber(field.verdicts)
  elseif field.state ~= 'failed' then
    if now >= tonumber(field.lease) then
      claim(at)
      field.token = args.token
    end
    if field.token ~= args.token then
      state.state = 'claimed_elsewhere'
      state.wait_ms = tonumber(redis.call('HGET', at, 'lease')) - now
    elseif field.state == 'published' then
      state.batch = field.batch
    else
      local members = redis.call('HGETALL', at)
      state.ids = {}
      for i = 1, #members, 2 do
        local id = string.match(members[i], '^m:(.+)$')
        if id then state.ids[tonumber(members[i + 1]) + 1] = id end
      end
      if not added or redis.call('LLEN', at .. ':rows') > 3 then
        rows = redis.call('LRANGE', at .. ':rows', 0, -1)
      end
    end
  end
  return {cjson.encode(state), rows}
end

-- Whether all processes of an open generation have ended, as those of a training that is resumed under
-- its name. A running process closes its generation soon after it is overdue.
local function is_abandoned(generation)
  local at = key(generation)
  local state, n, due = unpack(redis.call('HMGET', at, 'state', 'n', 'due'))
  if state ~= 'open' or n == '0' or not due then return false end
  return now >= due + args.abandoned_ms and is_overdue(at, tonumber(due), now)
end

-- The generation and row of a rollout that has joined before.
local function find(id)
  for _, generation in ipairs(redis.call('LRANGE', base, 0, -1)) do
    local row = redis.call('HGET', key(generation), 'm:' .. id)
    if row and not is_abandoned(generation) then return generation, tonumber(row) end
  end
end

local created = 0

local function create()
  created = created + 1
  local generation = time[1] .. '.' .. time[2] .. '.' .. created
  redis.call('HSET', key(generation), 'state', 'open', 'n', 0, 'step', args.step)
  redis.call('LPUSH', base, generation)
  redis.call('LTRIM', base, 0, REMEMBERED - 1)
  return generation
end

-- The generation that a rollout of this step joins, or nothing and the one that was closed without it.
local function open_generation()
  local generation = newest()
  if not generation then return create() end
  local state, late, step, n = unpack(redis.call('HMGET', key(generation), 'state', 'late', 'step', 'n'))
  local same_step = step == tostring(args.step)
  if is_abandoned(generation) then return create() end
  if state == 'open' and (same_step or n ~= '0') then return generation end
  if state and state ~= 'open' and late and same_step then return nil, generation end
  return create()
end

-- Makes a group due at once if all of its rollouts that will come are there.
local function close_if_all_came(at)
  local n, absent = unpack(redis.call('HMGET', at, 'n', 'absent'))
  if absent and n + absent >= args.size then redis.call('HSET', at, 'due', now, 'told', 1) end
end

local function add(id)
  local generation, closed = open_generation()
  if not generation then
    observe(key(closed), now, args.step, args.expires_ms)
    return closed, -1
  end
  local at = key(generation)
  local n = redis.call('HINCRBY', at, 'n', 1)
  redis.call('HSET', at, 'm:' .. id, n - 1)
  if n == 1 then
    redis.call('HSET', at, 'policy', args.policy, 'opened', now)
    if not args.timeout_ms then redis.call('HSET', at, 'spread', args.spread) end
    redis.call('HSETNX', at, 'due', now + (args.timeout_ms or timeout_ms(args.spread, args.step)))
  end
  if n == args.size then
    close(at, 'claimed')
    claim(at)
    observe(at, now, args.step, args.expires_ms)
  else
    close_if_all_came(at)
  end
  return generation, n - 1
end

-- Notes rollouts that will not come; without names, no further rollout will.
local function exclude(names)
  local latest = newest()
  if latest and not names then
    local state, step = unpack(redis.call('HMGET', key(latest), 'state', 'step'))
    -- The group was complete already; what follows under its name is another one.
    if state and state ~= 'open' and step == tostring(args.step) then return end
  end
  local generation = open_generation()
  if not generation then return end
  local at = key(generation)
  if names then
    for _, name in ipairs(names) do
      if redis.call('HSETNX', at, 'x:' .. name, 1) == 1 then redis.call('HINCRBY', at, 'absent', 1) end
    end
    close_if_all_came(at)
  else
    redis.call('HSET', at, 'due', now, 'told', 1)
  end
  if redis.call('HGET', at, 'n') == '0' then
    redis.call('PEXPIRE', at, args.memory_ms)
    redis.call('PEXPIRE', base, args.expires_ms)
  end
  notify(at)
end

if operation == 'join' then
  local places, generations, added, views = {}, {}, {}, {}
  for i, id in ipairs(args.ids) do
    local generation, row = find(id)
    local is_new = not generation
    if is_new then generation, row = add(id) end
    if is_new and row >= 0 then added[generation] = true end
    generations[generation] = true
    places[i] = {generation, row, is_new and 1 or 0}
  end
  for generation in pairs(added) do
    local at = key(generation)
    redis.call('RPUSH', at .. ':rows', ARGV[3], ARGV[4], ARGV[5])
    for _, it in ipairs({at, at .. ':rows', base}) do
      redis.call('PEXPIRE', it, args.expires_ms)
    end
    if redis.call('HGET', at, 'state') == 'open' then
      local bytes = #ARGV[3] + #ARGV[4] + #ARGV[5]
      count(args.backlog[1], args.backlog[2], at, bytes, time[1], args.expires_ms / 1000)
    end
  end
  if args.generation then generations[args.generation] = true end
  for generation in pairs(generations) do
    local at = key(generation)
    if redis.call('EXISTS', at) == 1 then redis.call('HSET', at, 'w:' .. args.mailbox, 1) end
    views[#views + 1] = view(generation, added[generation])
  end
  return {cjson.encode(places), views}
end

if operation == 'close' then
  for _, group in ipairs(KEYS) do
    base = group
    exclude(args.absent)
  end
  return {}
end

local answer = {}
if operation == 'publish' then
  -- Publishes all groups of a batch or none; returns those that another process has claimed.
  for i, group in ipairs(KEYS) do
    base = group
    local state, token = unpack(redis.call('HMGET', key(args.generations[i]), 'state', 'token'))
    if state ~= 'claimed' or token ~= args.token then answer[#answer + 1] = i end
  end
  if #answer > 0 then return answer end
end

for i, group in ipairs(KEYS) do
  base = group
  local generation = args.generations[i]
  local at = key(generation)
  local state, token = unpack(redis.call('HMGET', at, 'state', 'token'))
  if operation == 'publish' then
    redis.call('HSET', at, 'state', 'published', 'batch', args.batch, 'start', args.starts[i],
      'verdicts', args.verdicts, 'lease', now + args.lease_ms)
    redis.call('UNLINK', at .. ':rows')
  elseif operation == 'mark_sent' then
    if state == 'published' then
      redis.call('HSET', at, 'state', 'sent')
      notify(at)
    end
  elseif operation == 'release' then
    if state == 'claimed' and token == args.token then
      redis.call('HSET', at, 'lease', now)
      notify(at)
    end
  elseif operation == 'finish' then
    if state == 'sent' then expire_soon(generation) end
  end
end
return answer
