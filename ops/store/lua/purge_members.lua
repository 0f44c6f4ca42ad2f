-- Remove members from groups, and write the receipt first. A member stays if it joined again since it was judged.
--
-- KEYS[1]  the journal of this run (list) on the shard of the groups
-- KEYS[2…] the groups (zset: channel -> time it joined)
-- ARGV[1]  seconds that the journal is kept from now
-- ARGV[2]  MessagePack: for each group {members, the score each was judged with}
--
-- Returns  {members removed, the channels that stayed because they had left the group or joined it again}
-- A receipt is MessagePack: a list of {group key, members, scores}.
local batch = cmsgpack.unpack(ARGV[2])
local receipt = {}
local removed, kept = 0, {}
for i = 1, #batch do
    local key = KEYS[i + 1]
    local members, scores = batch[i][1], batch[i][2]
    local found = redis.pcall('ZMSCORE', key, unpack(members))
    if found.err then
        for j = 1, #members do
            kept[#kept + 1] = members[j]
        end
    else
        local same = true
        for j = 1, #members do
            if tonumber(found[j]) ~= scores[j] then
                same = false
                break
            end
        end
        if not same then
            local still_members, still_scores = {}, {}
            for j = 1, #members do
                if tonumber(found[j]) == scores[j] then
                    still_members[#still_members + 1] = members[j]
                    still_scores[#still_scores + 1] = scores[j]
                else
                    kept[#kept + 1] = members[j]
                end
            end
            members, scores = still_members, still_scores
        end
        if #members > 0 then
            receipt[#receipt + 1] = {key, members, scores}
            removed = removed + #members
        end
    end
end
if removed > 0 then
    redis.call('RPUSH', KEYS[1], cmsgpack.pack(receipt))
    redis.call('EXPIRE', KEYS[1], ARGV[1])
    for i = 1, #receipt do
        redis.call('ZREM', receipt[i][1], unpack(receipt[i][2]))
    end
end
return {removed, kept}
