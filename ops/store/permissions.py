"""A Redis user that may not: which rule its ACL lacks.

Redis names the command, but not where a script calls it, and never the key.
"""

import re

from redis.exceptions import NoPermissionError, ResponseError

from ops.model.keys import Keyspace

# Redis 6.2 to 8, Valkey: "… no permissions to run the 'zadd' command", "… to access one of the keys used as arguments",
# "The user executing the script can't run this command or subcommand … @user_script:12…"
_COMMAND = re.compile(r"permissions to run the '([\w|-]{1,40})'")
_IN_SCRIPT = re.compile(r"(executing the script can't|ACL failure in script)")
_KEY = re.compile(r"\bkeys?\b")
_SCRIPT_LINE = re.compile(r"user_script:\s*(\d{1,6})")
_CALL = re.compile(r"call\('(\w+)'")
# What RedisChannelLayer.receive() runs, in a script of its own whose lines are not ours to know.
RULES_OF_THE_LAYER = "+zrange +zadd +del +bzpopmin +zpopmin"


def refusal_of_script(error: ResponseError, source: bytes) -> NoPermissionError | None:
    """Where ``error`` says that a script of that ``source`` may not do something: the same, naming the command."""
    said = str(error)
    if not _IN_SCRIPT.search(said) or "run" not in said or _COMMAND.search(said):
        return None
    line = _SCRIPT_LINE.search(said)
    lines = source.decode().splitlines()
    called = _CALL.findall(lines[int(line[1]) - 1]) if line and 0 < int(line[1]) <= len(lines) else []
    return NoPermissionError(f"no permissions to run the '{called[0].lower()}' command") if called else None


def rule_that_is_missing(error: BaseException, keyspace: Keyspace, in_script: str) -> str | None:
    """The ACL rule without which the server refused; None where ``error`` is no such refusal."""
    said = str(error)
    if not isinstance(error, ResponseError):
        return None
    if "EXEC without MULTI" in said:  # redis-py goes on where MULTI was refused.
        return "+multi"
    if command := _COMMAND.search(said):
        return f"+{command[1]}"
    if not isinstance(error, NoPermissionError) and not _IN_SCRIPT.search(said):
        return None
    return keyspace.everything_rule if _KEY.search(said) else in_script
