-- Remove members from groups, and write the receipt first. A member stays if it joined again since it was judged. A
-- judgement that is too old removes nothing: the run may have stood still while the world went on.
--
-- KEYS[1]  the journal of this run (list) on the shard of the groups
-- KEYS[2…] the groups (zset: channel -> time it joined), in the order of ARGV[2]
-- ARGV[1]  seconds that the journal is kept from now; 0: until a later run deletes it
-- ARGV[2]  MessagePack: for each group {group key, members}
-- ARGV[3]  MessagePack: for each of all these members the time by which it had joined when it was judged
-- ARGV[4]  when they were judged, unix seconds by the clock of this server
-- ARGV[5]  seconds after which that judgement holds no more
--
-- Returns  {members removed, the channels that stayed because they had left the group or joined it again}, or
--          {-1, {}} when the judgement is too old: nothing was done
-- A receipt is MessagePack: {a list of {group key, members}, the scores of all these members in turn}.
local ARRAY_OF_TWO = '\146'
local call, pcall, tonumber, unpack = redis.call, redis.pcall, tonumber, unpack
local time = call('TIME')
if math.abs(time[1] + time[2] / 1000000 - tonumber(ARGV[4])) > tonumber(ARGV[5]) then
    return {-1, {}}
end
local batch, limits = cmsgpack.unpack(ARGV[2]), cmsgpack.unpack(ARGV[3])
local scores, kept = {}, {}
local at = 0
for i = 1, #batch do
    local members = batch[i][2]
    local found = pcall('ZMSCORE', KEYS[i + 1], unpack(members))
    if found.err and not string.find(found.err, 'WRONGTYPE', 1, true) then
        call('ZMSCORE', KEYS[i + 1], unpack(members))
    end
    for j = 1, #members do
        at = at + 1
        local score = not found.err and tonumber(found[j])
        if score and score <= limits[at] then
            scores[at] = score
        else
            scores[at] = false
            kept[#kept + 1] = members[j]
        end
    end
end
if #kept == at then
    return {0, kept}
end
local groups, receipt = batch, nil
if #kept == 0 then
    -- What was asked for is what goes: it need not be packed again.
    receipt = ARRAY_OF_TWO .. ARGV[2] .. cmsgpack.pack(scores)
else
    local chosen = {}
    groups, at = {}, 0
    for i = 1, #batch do
        local going = {}
        for j = 1, #batch[i][2] do
            at = at + 1
            if scores[at] then
                going[#going + 1] = batch[i][2][j]
                chosen[#chosen + 1] = scores[at]
            end
        end
        if #going > 0 then
            groups[#groups + 1] = {batch[i][1], going}
        end
    end
    receipt = cmsgpack.pack({groups, chosen})
end
call('RPUSH', KEYS[1], receipt)
if ARGV[1] ~= '0' then
    call('EXPIRE', KEYS[1], ARGV[1])
end
for i = 1, #groups do
    call('ZREM', groups[i][1], unpack(groups[i][2]))
end
return {at - #kept, kept}
