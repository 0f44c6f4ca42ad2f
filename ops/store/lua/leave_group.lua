-- Take a channel out of a group.
--
-- KEYS[1]  the group (zset: channel -> time it joined)
-- ARGV[1]  the channel
--
-- Returns  1 if it was in the group, else 0
return redis.call('ZREM', KEYS[1], ARGV[1])
