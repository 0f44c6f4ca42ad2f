-- Add a channel to a group, or renew its membership; a new one goes into the index of the channel's process.
--
-- KEYS[1]  the group (zset: channel -> time it joined)
-- KEYS[2]  who of the channel's process was taken out by other processes (list of entries); none for a general channel
-- KEYS[3]  the part of the index that the channel belongs to (list of entries); left out for another process's channel
-- ARGV[1]  the channel
-- ARGV[2]  now, unix seconds
-- ARGV[3]  seconds that the group is kept from now
-- ARGV[4]  the index entry, if there is a KEYS[2]
--
-- Returns  1 if the channel is new in the group, else 0
local added = redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
if KEYS[2] then
    redis.call('LREM', KEYS[2], 0, ARGV[4])
end
if KEYS[3] then
    if added == 1 then
        redis.call('RPUSH', KEYS[3], ARGV[4])
    end
    redis.call('EXPIRE', KEYS[3], ARGV[3])
end
return added
