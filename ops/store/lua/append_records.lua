-- Append records to the disconnect log. They come as one text: packing many arguments takes redis-py longer than
-- everything else that recording does.
--
-- KEYS[1]  the log (stream; field d: a record as JSON)
-- ARGV[1]  about how many entries it keeps
-- ARGV[2]  records, a line each
--
-- Returns  how many were appended
local appended = 0
for record in string.gmatch(ARGV[2], '[^\n]+') do
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'd', record)
    appended = appended + 1
end
return appended
