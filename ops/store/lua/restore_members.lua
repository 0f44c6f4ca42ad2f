-- Put back members that a run removed, with their old scores, where they are still absent.
--
-- KEYS[…]  the groups (zset: channel -> time it joined)
-- ARGV[1]  seconds that a group which had gone is kept from now (the layer's group_expiry)
-- ARGV[2]  MessagePack: for each group {members, scores}
--
-- Returns  {members restored, members that were there, groups that now hold something else}
local batch = cmsgpack.unpack(ARGV[2])
local restored, present, blocked = 0, 0, 0
for i = 1, #batch do
    local key = KEYS[i]
    local members, scores = batch[i][1], batch[i][2]
    local kind = redis.call('TYPE', key).ok
    if kind ~= 'zset' and kind ~= 'none' then
        blocked = blocked + 1
    else
        local words = {}
        for j = 1, #members do
            words[2 * j - 1] = string.format('%.17g', scores[j])
            words[2 * j] = members[j]
        end
        local added = redis.call('ZADD', key, 'NX', unpack(words))
        restored = restored + added
        present = present + #members - added
        if redis.call('TTL', key) == -1 then
            redis.call('EXPIRE', key, ARGV[1])
        end
    end
end
return {restored, present, blocked}
