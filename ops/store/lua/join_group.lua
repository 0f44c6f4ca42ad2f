-- Add a channel to a group, or renew its membership.
--
-- KEYS[1]  the group (zset: channel -> time it joined)
-- ARGV[1]  the channel
-- ARGV[2]  now, unix seconds
-- ARGV[3]  seconds that the group is kept from now
--
-- Returns  1 if the channel is new in the group, else 0
local added = redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return added
