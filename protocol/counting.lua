-- Functions that update the backlog; a script that updates it starts with this file.
-- sizes: hash of bytes by name, and their `sum`; ends: sorted set of expiry times.

local function strike(sizes, ends, name)
  local size = redis.call('HGET', sizes, name)
  if not size then return end
  redis.call('HINCRBY', sizes, 'sum', -size)
  redis.call('HDEL', sizes, name)
  redis.call('ZREM', ends, name)
  if redis.call('HLEN', sizes) == 1 then redis.call('DEL', sizes) end
end

local function count(sizes, ends, name, bytes, now_s, expires_s)
  redis.call('HINCRBY', sizes, name, bytes)
  redis.call('HINCRBY', sizes, 'sum', bytes)
  redis.call('ZADD', ends, now_s + expires_s, name)
  redis.call('EXPIRE', sizes, expires_s)
  redis.call('EXPIRE', ends, expires_s)
end

