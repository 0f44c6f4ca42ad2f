-- Find the members that were lost together with their group: it was evicted or deleted, and may be there again since.
--
-- KEYS     groups (zset: channel -> time it joined), one for each membership that is looked for
-- ARGV     for each of them the channel and the time by which it had joined
--
-- Returns  the positions in KEYS of the lost ones. A member that is missing beside one that joined before it was taken
--          out, by whoever: that one is not lost. A key of another type has lost nobody.
local lost = {}
for i = 1, #KEYS do
    local channel, joined_at = ARGV[2 * i - 1], tonumber(ARGV[2 * i])
    local oldest = redis.pcall('ZRANGE', KEYS[i], 0, 0, 'WITHSCORES')
    if not oldest.err and (not oldest[2] or tonumber(oldest[2]) > joined_at) then
        if not redis.call('ZSCORE', KEYS[i], channel) then
            lost[#lost + 1] = i
        end
    end
end
return lost
