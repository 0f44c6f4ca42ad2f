-- Leave markers for a silent process in each of its in-flight keys. A live process of the stock layer moves all that is
-- there to its inbox each time it waits for a message, five seconds apart at most; nothing else ever takes them away.
-- There are several for each key, because the one that such a process takes from its inbox is back here until it is
-- acknowledged: never all of them at once.
--
-- Their score is +inf: they are behind every message, so nobody who takes the first one of the key takes a marker for it.
--
-- KEYS     in-flight keys (zset: message -> time it was sent)
-- ARGV[1]  milliseconds that a key which holds nothing else lives from now
-- ARGV[2…] the markers: messages for no channel, as the layer serializes them
--
-- Returns  per key how many of its markers of before are there (now it has as many as ARGV lists), or -1 (the key holds
--          something else, and has none)
local replies = {}
for i = 1, #KEYS do
    local kind = redis.call('TYPE', KEYS[i]).ok
    if kind ~= 'zset' and kind ~= 'none' then
        replies[i] = -1
    else
        local before = redis.call('ZCOUNT', KEYS[i], '+inf', '+inf')
        for at = 2 + before, #ARGV do
            redis.call('ZADD', KEYS[i], '+inf', ARGV[at])
        end
        if redis.call('ZCOUNT', KEYS[i], '-inf', '(+inf') == 0 then
            redis.call('PEXPIRE', KEYS[i], ARGV[1])
        end
        replies[i] = before
    end
end
return replies
