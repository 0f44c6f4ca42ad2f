-- Renew the lease of a process on one shard, or take it.
--
-- KEYS[1]  the lease (hash)
-- ARGV[1]  seconds that the record is kept from now, lapsed or not
-- ARGV[2…] fields and values that describe the process
--
-- Returns  1 if the lease was there, 0 if it was not: then whatever else the process had on this shard may be gone too;
--          and which run of which server this is, '' where this user may not know: after a restart from an old
--          snapshot, or on a replica that was a little behind, the lease is there and memberships are missing
local was_there = redis.call('EXISTS', KEYS[1])
local time = redis.call('TIME')
local server = redis.pcall('INFO', 'server')
local run = type(server) == 'string' and string.match(server, 'run_id:(%w+)') or ''
local renewed_at = time[1] .. '.' .. string.format('%06d', time[2])
redis.call('HSET', KEYS[1], 'renewed_at', renewed_at, 'server_run', run, unpack(ARGV, 2))
redis.call('EXPIRE', KEYS[1], ARGV[1])
return {was_there, run}
