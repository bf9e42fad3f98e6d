-- Lease the requests that nobody has leased and that have no reply yet.
-- KEYS: the leases, then their replies; ARGV: owner, ms. Returns the indices of those leased.
local leased, n = {}, #KEYS / 2
for i = 1, n do
  if redis.call('EXISTS', KEYS[n + i]) == 0
      and redis.call('SET', KEYS[i], ARGV[1], 'NX', 'PX', ARGV[2]) then
    leased[#leased + 1] = i
  end
end
return leased
