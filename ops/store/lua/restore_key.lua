-- Give a key that was set aside its name back, unless another has taken it, without the messages that have expired.
--
-- KEYS[1]  the key as it was set aside (zset: message -> when it was sent, by its sender's clock)
-- KEYS[2]  its name
-- ARGV[1]  unix seconds; what was sent until then has expired: no sender of the layer would have left it
-- ARGV[2]  seconds that the key is kept from now; 0: until somebody deletes it
--
-- Returns  1 where the key is back, 0 where it is not: its name is taken, or it was gone or holds no messages any more
if redis.call('TYPE', KEYS[1]).ok ~= 'zset' then
    return 0
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
if redis.call('ZCARD', KEYS[1]) == 0 then
    return 0
end
if redis.call('RENAMENX', KEYS[1], KEYS[2]) == 0 then
    return 0
end
if ARGV[2] == '0' then
    redis.call('PERSIST', KEYS[2])
else
    redis.call('EXPIRE', KEYS[2], ARGV[2])
end
return 1
