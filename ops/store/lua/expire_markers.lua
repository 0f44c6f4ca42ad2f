-- Have keys that hold nothing but probes and markers expire. A process that was told to leave them may have ended.
--
-- KEYS     inboxes and in-flight keys (zset: message -> time it was sent)
-- ARGV[1]  milliseconds that they live from now
-- ARGV[2]  the lowest score of a real message
-- ARGV[3]  the bound of their scores, as ZCOUNT has it
--
-- Returns  how many of them expire from now on, and would not have
local changed = 0
for i = 1, #KEYS do
    if redis.call('TYPE', KEYS[i]).ok == 'zset' and redis.call('PTTL', KEYS[i]) == -1 then
        if redis.call('ZCOUNT', KEYS[i], ARGV[2], ARGV[3]) == 0 then
            changed = changed + redis.call('PEXPIRE', KEYS[i], ARGV[1])
        end
    end
end
return changed
