-- Take a channel out of a group, and out of the index of the channel's process.
--
-- KEYS[1]  the group (zset: channel -> time it joined)
-- KEYS[2]  the part of the index that the channel belongs to (list of entries); left out for another process's channel
-- ARGV[1]  the channel
-- ARGV[2]  the index entry
--
-- Returns  1 if it was in the group, else 0
local removed = redis.call('ZREM', KEYS[1], ARGV[1])
if KEYS[2] then
    -- All of them: one that was put back may be there twice. Also where another process took it out of the group: what the
    -- index names and its process does not know is taken out when members are put back.
    redis.call('LREM', KEYS[2], 0, ARGV[2])
end
return removed
