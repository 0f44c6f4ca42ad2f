-- Put one message into an inbox that has room for it.
--
-- KEYS[1]  the inbox (zset: message -> time it was sent)
-- ARGV[1]  the message, as the layer serializes it
-- ARGV[2]  now, unix seconds
-- ARGV[3]  seconds after which messages expire
-- ARGV[4]  the most messages that the inbox may hold
--
-- Returns  1, or 0 when the inbox is full
redis.call('ZREMRANGEBYSCORE', KEYS[1], 0, math.floor(ARGV[2]) - math.floor(ARGV[3]))
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[4]) then
    return 0
end
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
redis.call('EXPIRE', KEYS[1], math.floor(ARGV[3]))
return 1
