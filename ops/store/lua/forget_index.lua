-- Delete parts of the index of a process that was found dead, unless it has come back: then it is in use again.
--
-- KEYS[1]  the lease of the process (hash), which was deleted before its members were removed
-- KEYS[2…] parts of its index (lists)
-- ARGV     nothing
--
-- Returns  how many there were; 0 where the process holds a lease again
if redis.call('TYPE', KEYS[1]).ok ~= 'none' then
    return 0
end
return redis.call('UNLINK', unpack(KEYS, 2))
