-- Take a key of a dead process out of the way without losing what is in it: it is renamed, and expires later.
--
-- KEYS[1]  the key
-- KEYS[2]  its new name, under the run that sets it aside
-- ARGV[1]  seconds that it is kept from now; 0: until a later run deletes it
-- ARGV[2]  1: also where it would expire by itself; 0: only where it would not
--
-- Returns  how many messages it held; 0 when it stays where it is, was gone or holds no messages
if redis.call('TYPE', KEYS[1]).ok ~= 'zset' then
    return 0
end
if ARGV[2] == '0' and redis.call('TTL', KEYS[1]) >= 0 then
    return 0
end
-- Neither a probe (below 0) nor a marker (+inf) is a message.
local messages = redis.call('ZCOUNT', KEYS[1], '0', '(+inf')
if messages == 0 then
    return 0
end
redis.call('RENAME', KEYS[1], KEYS[2])
if ARGV[1] == '0' then
    redis.call('PERSIST', KEYS[2])
else
    redis.call('EXPIRE', KEYS[2], ARGV[1])
end
return messages
