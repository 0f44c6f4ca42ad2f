-- Take a channel of another process out of a group, and leave word for that process, which would put it back.
--
-- KEYS[1]  the group (zset: channel -> time it joined)
-- KEYS[2]  the lease of the channel's process (hash): without one, nobody reads what is left for it
-- KEYS[3]  who of that process was taken out by another process (list of index entries)
-- ARGV[1]  the channel
-- ARGV[2]  the index entry
-- ARGV[3]  seconds that the list is kept from now
--
-- Returns  1 if it was in the group, else 0
local removed = redis.call('ZREM', KEYS[1], ARGV[1])
if redis.call('EXISTS', KEYS[2]) == 1 then
    redis.call('RPUSH', KEYS[3], ARGV[2])
    redis.call('EXPIRE', KEYS[3], ARGV[3])
end
return removed
