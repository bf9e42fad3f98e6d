-- Claim the requests that no process has claimed and that have no cached reply.
-- KEYS: the claims, then their replies. ARGV: owner, ms to live.
-- Returns the indices of the claimed ones.
local claimed, n = {}, #KEYS / 2
for i = 1, n do
  if redis.call('EXISTS', KEYS[n + i]) == 0
      and redis.call('SET', KEYS[i], ARGV[1], 'NX', 'PX', ARGV[2]) then
    claimed[#claimed + 1] = i
  end
end
return claimed
