-- Delete the claims that this owner still holds; DEL alone could delete another owner's claim.
-- KEYS: claims. ARGV: owner.
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[1] then redis.call('DEL', key) end
end
