-- The members of a group, without those whose membership has expired.
--
-- KEYS[1]  the group (zset: channel -> time it joined)
-- ARGV[1]  unix seconds: who joined until then has expired
--
-- Returns  channels
redis.call('ZREMRANGEBYSCORE', KEYS[1], 0, ARGV[1])
return redis.call('ZRANGE', KEYS[1], 0, -1)
