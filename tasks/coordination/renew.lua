-- Prolong the leases that are still ours: PEXPIRE alone would prolong another owner's.
-- KEYS: leases; ARGV: owner, ms. Returns the indices of the leases that are not ours any more.
local lost = {}
for i, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[1] then
    redis.call('PEXPIRE', key, ARGV[2])
  else
    lost[#lost + 1] = i
  end
end
return lost
