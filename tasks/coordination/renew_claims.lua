-- Prolong the claims that this owner still holds; PEXPIRE alone could prolong another owner's claim.
-- KEYS: claims. ARGV: owner, ms to live. Returns the indices of the lost ones.
local lost = {}
for i, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[1] then
    redis.call('PEXPIRE', key, ARGV[2])
  else
    lost[#lost + 1] = i
  end
end
return lost
