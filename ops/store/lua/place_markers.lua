-- Leave a marker for a silent process in each of its in-flight keys. A live process of the stock layer moves all that is
-- there to its inbox each time it waits for a message, five seconds apart at most; nothing else ever takes it away.
--
-- Its score is +inf: it is behind every message, so nobody who takes the first one of the key takes the marker for it.
--
-- KEYS     in-flight keys (zset: message -> time it was sent)
-- ARGV[1]  the marker: a message for no channel, as the layer serializes it
-- ARGV[2]  milliseconds that a key which holds nothing else lives from now
--
-- Returns  per key 1 (there is a marker now, a new one or an earlier one), or 0 (the key holds something else)
local replies = {}
for i = 1, #KEYS do
    local kind = redis.call('TYPE', KEYS[i]).ok
    if kind ~= 'zset' and kind ~= 'none' then
        replies[i] = 0
    else
        if redis.call('ZCOUNT', KEYS[i], '+inf', '+inf') == 0 then
            redis.call('ZADD', KEYS[i], '+inf', ARGV[1])
        end
        if redis.call('ZCARD', KEYS[i]) == 1 then
            redis.call('PEXPIRE', KEYS[i], ARGV[2])
        end
        replies[i] = 1
    end
end
return replies
