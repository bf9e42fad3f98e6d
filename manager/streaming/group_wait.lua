-- How long groups wait without a timeout of their own; docs/internals/group_store.md. Times are in ms.
-- A hash per plan, run and split holds what its groups needed. `group.lua` starts with this file.

-- Without a timeout of its own, a group waits for FACTOR times what the slowest one of the latest two
-- steps needed from its first to its last rollout, within these bounds.
local FACTOR, SHORTEST_MS, LONGEST_MS = 4, 2000, 60000
-- Groups without a step: how many must have been seen, and how many count as one step.
local FEWEST, WINDOW = 8, 64

-- Notes how long a group needed. `max` is the largest time of the latest step of its run and
-- split, `before` that of the step before.
local function observe(at, now, step_now, expires_ms)
  local spread, opened, told = unpack(redis.call('HMGET', at, 'spread', 'opened', 'told'))
  if not spread or told then return end
  local ms = now - opened
  local step, count, max, before = unpack(redis.call('HMGET', spread, 'step', 'count', 'max', 'before'))
  step, count, max, before = tonumber(step or -1), tonumber(count or 0), tonumber(max or 0), tonumber(before or 0)
  if step_now >= 0 and step_now < step then
    redis.call('HSET', spread, 'before', math.max(before, ms))
    return
  end
  if count > 0 and (step_now > step or count >= WINDOW and step < 0) then
    redis.call('HSET', spread, 'before', max)
    count, max = 0, 0
  end
  redis.call('HSET', spread, 'step', step_now, 'count', count + 1, 'max', math.max(max, ms))
  redis.call('PEXPIRE', spread, expires_ms)
end

local function timeout_ms(spread, step)
  local seen, count, max, before = unpack(redis.call('HMGET', spread, 'step', 'count', 'max', 'before'))
  if not seen then return LONGEST_MS end
  if step < 0 and tonumber(count) < FEWEST or step == tonumber(seen) and step >= 0 then
    -- Of these groups, those that are seen first are the fast ones.
    if not before then return LONGEST_MS end
  end
  return math.min(math.max(FACTOR * math.max(max, before or 0), SHORTEST_MS), LONGEST_MS)
end

-- Gives a group more time if others needed more since it was opened.
local function is_overdue(at, due, now)
  local spread, told, opened, step = unpack(redis.call('HMGET', at, 'spread', 'told', 'opened', 'step'))
  if spread and not told then
    due = math.max(due, opened + timeout_ms(spread, tonumber(step)))
    redis.call('HSET', at, 'due', due)
  end
  return now >= due
end

