-- Put a heartbeat into each inbox that is not near its capacity.
--
-- KEYS     inboxes (zset: message -> time it was sent)
-- ARGV[1]  seconds after which messages expire
-- ARGV[…]  for each inbox its message, then for each inbox the most messages that it may hold already
--
-- Returns  per inbox 1 (placed), 0 (near capacity) or -1 (the key is no inbox)
local time = redis.call('TIME')
local now = time[1] .. '.' .. string.format('%06d', time[2])
local replies = {}
for i = 1, #KEYS do
    local kind = redis.call('TYPE', KEYS[i]).ok
    if kind ~= 'zset' and kind ~= 'none' then
        replies[i] = -1
    elseif redis.call('ZCARD', KEYS[i]) > tonumber(ARGV[1 + #KEYS + i]) then
        replies[i] = 0
    else
        redis.call('ZADD', KEYS[i], now, ARGV[1 + i])
        redis.call('EXPIRE', KEYS[i], ARGV[1])
        replies[i] = 1
    end
end
return replies
