-- Put a message into each inbox that has room for it.
--
-- KEYS     inboxes (zset: message -> time it was sent)
-- ARGV[1]  now, unix seconds
-- ARGV[2]  seconds after which messages expire
-- ARGV[…]  for each inbox its message, then for each inbox the most messages that it may hold
--
-- Returns  how many inboxes were full
local expired = math.floor(ARGV[1]) - math.floor(ARGV[2])
local expiry = math.floor(ARGV[2])
local full = 0
for i = 1, #KEYS do
    redis.call('ZREMRANGEBYSCORE', KEYS[i], 0, expired)
    if redis.call('ZCARD', KEYS[i]) < tonumber(ARGV[2 + #KEYS + i]) then
        redis.call('ZADD', KEYS[i], ARGV[1], ARGV[2 + i])
        redis.call('EXPIRE', KEYS[i], expiry)
    else
        full = full + 1
    end
end
return full
