-- Put a probe in front of each inbox that has room for one, and say what is in each.
--
-- KEYS     inboxes (zset: message -> time it was sent)
-- ARGV[1]  the probe: a message for no channel, as the layer serializes it
-- ARGV[2]  its score, below 0: it is taken before any message, and no sender trims it as expired
-- ARGV[3]  unix seconds: a full inbox can be watched where its oldest message is newer than that
-- ARGV[4]  milliseconds that the inbox must live at least (an inbox that expired would look like one that was read)
-- ARGV[5…] the most messages each inbox may hold for a probe to be put there
--
-- Returns  per inbox {placed (1, 0, or -1 where the key is no inbox), messages before, oldest message, its score}
local replies = {}
for i = 1, #KEYS do
    local key = KEYS[i]
    local kind = redis.call('TYPE', key).ok
    if kind ~= 'zset' and kind ~= 'none' then
        replies[i] = {-1, 0, '', ''}
    else
        local messages = redis.call('ZCARD', key)
        local oldest = {}
        if messages > tonumber(ARGV[i + 4]) then
            oldest = redis.call('ZRANGE', key, 0, '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')
        end
        if oldest[2] and tonumber(oldest[2]) > tonumber(ARGV[3]) then
            replies[i] = {0, messages, oldest[1], oldest[2]}
        else
            redis.call('ZADD', key, ARGV[2], ARGV[1])
            local left = redis.call('PTTL', key)
            if messages == 0 or (left >= 0 and left < tonumber(ARGV[4])) then
                redis.call('PEXPIRE', key, ARGV[4])
            end
            replies[i] = {1, messages, '', ''}
        end
    end
end
return replies
