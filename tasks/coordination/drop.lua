-- Delete the leases that are still ours: DEL alone would delete the lease of whoever took over.
-- KEYS: leases; ARGV: owner.
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[1] then redis.call('DEL', key) end
end
