-- Put a probe into each inbox that has room for one, and say what is in each.
--
-- KEYS     inboxes (zset: message -> time it was sent)
-- ARGV[1]  the probe: a message for no channel, as the layer serializes it
-- ARGV[2]  its score: now, unix seconds (an older score could be trimmed by any sender, which would look like life; and so
--          could this one by a sender whose clock is ahead: no message in the inbox may be newer than the probe)
-- ARGV[3]  milliseconds that the inbox must live at least (an inbox that expired would look like life too)
-- ARGV[4…] the most messages each inbox may hold for a probe to be put there
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
        if messages > tonumber(ARGV[i + 3]) then
            local oldest = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
            replies[i] = {0, messages, oldest[1], oldest[2]}
        else
            local newest = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')[2]
            local score = (newest and tonumber(newest) > tonumber(ARGV[2])) and newest or ARGV[2]
            redis.call('ZADD', key, score, ARGV[1])
            local left = redis.call('PTTL', key)
            if messages == 0 or (left >= 0 and left < tonumber(ARGV[3])) then
                redis.call('PEXPIRE', key, ARGV[3])
            end
            replies[i] = {1, messages, '', ''}
        end
    end
end
return replies
