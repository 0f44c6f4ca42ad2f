-- Renew the lease of a process on one shard, or take it.
--
-- KEYS[1]  the lease (hash)
-- KEYS[2]  who of this process was taken out of a group by another process (list of index entries)
-- KEYS[3]  who holds leases on this shard (zset: process -> when it renewed)
-- ARGV[1]  seconds that the record is kept from now, lapsed or not
-- ARGV[2]  the process
-- ARGV[3]  its holder, a name of its own: two holders of one lease are processes that share a name, after a fork
-- ARGV[4…] fields and values that describe the process
--
-- Returns  1 if the lease was there, 0 if it was not: then whatever else the process had on this shard may be gone too;
--          which history this is: the run and the replication id of the server, '' where this user may not know. After a
--          restart from an old snapshot, or on a replica that was a little behind, the lease is there and memberships are
--          missing;
--          now, unix seconds of this server; and the list of KEYS[2]
local was_there = redis.call('EXISTS', KEYS[1])
local time = redis.call('TIME')
local function info(section, name)
    local said = redis.pcall('INFO', section)
    return type(said) == 'string' and string.match(said, name .. ':(%w+)') or ''
end
local run = info('server', 'run_id')
local now = time[1] .. '.' .. string.format('%06d', time[2])
local holder = redis.call('HGET', KEYS[1], 'holder')
if holder and holder ~= ARGV[3] then
    redis.call('HSET', KEYS[1], 'shared', 1)
end
redis.call('HSET', KEYS[1], 'renewed_at', now, 'server_run', run, 'holder', ARGV[3], unpack(ARGV, 4))
redis.call('EXPIRE', KEYS[1], ARGV[1])
-- Not call: another type there is no reason to lose the lease.
redis.pcall('ZADD', KEYS[3], now, ARGV[2])
redis.pcall('ZREMRANGEBYSCORE', KEYS[3], '-inf', now - ARGV[1])
redis.pcall('EXPIRE', KEYS[3], ARGV[1])
return {was_there, run .. info('replication', 'master_replid'), now, redis.call('LRANGE', KEYS[2], 0, -1)}
