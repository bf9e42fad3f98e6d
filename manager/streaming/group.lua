-- One group of rollouts, met by the processes that hold its members. Times are Redis' own, in ms.
-- KEYS[1]: a list of the last generations' names, newest first; none is given twice, even by a Redis
-- that has lost its data. A generation is a hash KEYS[1]:<name> and, while it lacks a batch, a list
-- KEYS[1]:<name>:rows of what its members' processes sent: ids, rollouts, token ids.
-- ARGV: operation, its arguments as JSON, for `look` the three parts of what is brought.
-- Every operation but `look` takes several groups: KEYS, and args.generations beside them.
--
-- States of a generation, in order:
--   open       members come in
--   claimed    nobody else comes in; its leader (token, until the lease ends) makes the batch
--   published  the batch is in Redis under an id that stands from here on; its tasks may be unsent
--   sent       its tasks are sent
--   failed     it was late, and its policy is `error`
-- Fields m:<id> hold a member's row, w:<mailbox> a process to be told of what happens.

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

local function tell(at)
  for _, field in ipairs(redis.call('HKEYS', at)) do
    local box = string.match(field, '^w:(.+)$')
    if box and box ~= args.mailbox then
      redis.call('RPUSH', box, base)
      redis.call('PEXPIRE', box, args.expires_ms)
    end
  end
end

local function lease(at)
  redis.call('HSET', at, 'token', args.token, 'lease', now + args.lease_ms)
end

local function forget_soon(generation)
  redis.call('PEXPIRE', key(generation), args.memory_ms)
  if newest() == generation then
    redis.call('PEXPIRE', base, args.memory_ms)
  end
end

-- What an incomplete group holds is in the backlog; from here on, its batch is, or nobody waits.
local function close(at, state)
  redis.call('HSET', at, 'state', state)
  strike(args.backlog[1], args.backlog[2], at)
end

local function give_up(generation)
  local at = key(generation)
  redis.call('HSET', at, 'late', 1)
  if redis.call('HGET', at, 'policy') == 'error' then
    close(at, 'failed')
    redis.call('UNLINK', at .. ':rows')
    forget_soon(generation)
    tell(at)
  else
    close(at, 'claimed')
    lease(at)
  end
end

-- What a process is to do about a generation: close it when it is late, lead it when nobody does.
-- Who has just brought all that there is of it does not get it back.
local function view(generation, brought)
  local at = key(generation)
  local field = {}
  local names = {'state', 'n', 'policy', 'step', 'due', 'lease', 'token', 'batch', 'start', 'verdicts', 'late'}
  local values = redis.call('HMGET', at, unpack(names))
  for i, name in ipairs(names) do field[name] = values[i] or nil end
  if not field.state then
    return {cjson.encode({generation = generation, state = 'gone'}), {}}
  end
  if field.state == 'open' and now >= tonumber(field.due) then
    give_up(generation)
    return view(generation, brought)
  end
  local seen = {
    generation = generation, state = field.state, n = tonumber(field.n), policy = field.policy,
    step = tonumber(field.step), late = field.late == '1',
  }
  local rows = {}
  if field.state == 'open' then
    seen.wait_ms = tonumber(field.due) - now
  elseif field.state == 'sent' then
    seen.batch = field.batch
    seen.start = tonumber(field.start)
    seen.verdicts = tonumber(field.verdicts)
  elseif field.state ~= 'failed' then
    if now >= tonumber(field.lease) then
      lease(at)
      field.token = args.token
    end
    if field.token ~= args.token then
      seen.state = 'led'
      seen.wait_ms = tonumber(redis.call('HGET', at, 'lease')) - now
    elseif field.state == 'published' then
      seen.batch = field.batch
    else
      local members = redis.call('HGETALL', at)
      seen.ids = {}
      for i = 1, #members, 2 do
        local id = string.match(members[i], '^m:(.+)$')
        if id then seen.ids[tonumber(members[i + 1]) + 1] = id end
      end
      if not brought or redis.call('LLEN', at .. ':rows') > 3 then
        rows = redis.call('LRANGE', at .. ':rows', 0, -1)
      end
    end
  end
  return {cjson.encode(seen), rows}
end

-- The generation that holds a member: one handed over again is found where it was first.
local function find(id)
  for _, generation in ipairs(redis.call('LRANGE', base, 0, -1)) do
    local row = redis.call('HGET', key(generation), 'm:' .. id)
    if row then return generation, tonumber(row) end
  end
end

local begun = 0

local function begin()
  begun = begun + 1
  local generation = time[1] .. '.' .. time[2] .. '.' .. begun
  redis.call('HSET', key(generation), 'state', 'open', 'n', 0, 'policy', args.policy,
    'step', args.step, 'due', now + args.timeout_ms)
  redis.call('LPUSH', base, generation)
  redis.call('LTRIM', base, 0, REMEMBERED - 1)
  return generation
end

local function enter(id)
  local generation = newest()
  local state = generation and redis.call('HGET', key(generation), 'state')
  if state and state ~= 'open' then
    local late, step = unpack(redis.call('HMGET', key(generation), 'late', 'step'))
    if late and step == tostring(args.step) then return generation, -1 end
  end
  if state ~= 'open' then generation = begin() end
  local at = key(generation)
  local n = redis.call('HINCRBY', at, 'n', 1)
  redis.call('HSET', at, 'm:' .. id, n - 1)
  if n == args.size then
    close(at, 'claimed')
    lease(at)
  end
  return generation, n - 1
end

if operation == 'look' then
  local places, generations, brought, views = {}, {}, {}, {}
  for i, id in ipairs(args.ids) do
    local generation, row = find(id)
    local fresh = not generation
    if fresh then generation, row = enter(id) end
    if fresh and row >= 0 then brought[generation] = true end
    generations[generation] = true
    places[i] = {generation, row, fresh and 1 or 0}
  end
  for generation in pairs(brought) do
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
    views[#views + 1] = view(generation, brought[generation])
  end
  return {cjson.encode(places), views}
end

local answer = {}
if operation == 'publish' then
  -- All of a batch's groups or none: those whose claim another process holds are the answer.
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
  elseif operation == 'announce' then
    if state == 'published' then
      redis.call('HSET', at, 'state', 'sent')
      tell(at)
    end
  elseif operation == 'release' then
    if state == 'claimed' and token == args.token then
      redis.call('HSET', at, 'lease', now)
      tell(at)
    end
  elseif operation == 'finish' then
    if state == 'sent' then forget_soon(generation) end
  end
end
return answer
