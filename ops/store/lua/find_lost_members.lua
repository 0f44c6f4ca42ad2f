-- Find the members that were lost together with their group: it was evicted or deleted, and may be there again since.
--
-- KEYS     groups (zset: channel -> time it joined)
-- ARGV     for each of them how many memberships are looked for, then for each of these the channel and the time by
--          which it had joined
--
-- Returns  the lost ones, as positions among all of these memberships. A member that is missing beside one that joined
--          before it was taken out, by whoever: that one is not lost. A key of another type has lost nobody.
local lost = {}
local at, position = 1, 0
for i = 1, #KEYS do
    local count = tonumber(ARGV[at])
    local oldest = redis.pcall('ZRANGE', KEYS[i], 0, 0, 'WITHSCORES')
    for j = 1, oldest.err and 0 or count do
        local channel, joined_at = ARGV[at + 2 * j - 1], tonumber(ARGV[at + 2 * j])
        if not oldest[2] or tonumber(oldest[2]) > joined_at then
            if not (oldest[2] and redis.call('ZSCORE', KEYS[i], channel)) then
                lost[#lost + 1] = position + j
            end
        end
    end
    at, position = at + 1 + 2 * count, position + count
end
return lost
