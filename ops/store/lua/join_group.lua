-- Add a channel to a group, or renew its membership; a new one goes into the index of the channel's process.
--
-- KEYS[1]  the group (zset: channel -> time it joined)
-- KEYS[2]  the part of the index that the channel belongs to (list of entries); left out for another process's channel
-- KEYS[3]  who of this process was taken out by another process (list of entries); left out together with KEYS[2]
-- ARGV[1]  the channel
-- ARGV[2]  now, unix seconds
-- ARGV[3]  seconds that the group is kept from now
-- ARGV[4]  the index entry
--
-- Returns  1 if the channel is new in the group, else 0
local added = redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
if KEYS[2] then
    if added == 1 then
        redis.call('RPUSH', KEYS[2], ARGV[4])
    end
    redis.call('EXPIRE', KEYS[2], ARGV[3])
    redis.call('LREM', KEYS[3], 0, ARGV[4])
end
return added
