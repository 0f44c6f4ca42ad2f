"""A Redis user that may not: which rule its ACL lacks.

Redis names the command, but not where a script calls it, and never the key.
"""

import re

from redis.exceptions import NoPermissionError, ResponseError

# Redis 6.2 to 8, Valkey: "… no permissions to run the 'zadd' command", "… to access one of the keys used as arguments",
# "The user executing the script can't run this command or subcommand … @user_script:12…"
_COMMAND = re.compile(r"permissions to run the '([\w|-]{1,40})'")
_IN_SCRIPT = re.compile(r"(executing the script can't|ACL failure in script)")
_KEY = re.compile(r"\bkeys?\b")
_CHANNEL = re.compile(r"\bchannels?\b")
# Redis 6.2 names these without what was asked of them, and all of them would be far more than is needed.
_WITH_SUBCOMMANDS = frozenset(("client", "config", "latency", "pubsub", "slowlog"))
# The only one of SCRIPT's that is ever asked: by the purge, and by redis-py for its locks.
_SCRIPT_RULE = "+script|load"
_SCRIPT_LINE = re.compile(r"user_script:\s*(\d{1,6})")
_CALL = re.compile(r"call\('(\w+)'")
# What RedisChannelLayer.receive() and group_send() run, in scripts of their own whose lines are not ours to know.
RULES_OF_THE_LAYER = "+zrange +zadd +del +bzpopmin +zpopmin +zcount +expire"


def refusal_of_script(error: ResponseError, source: bytes) -> NoPermissionError | None:
    """Where ``error`` says that a script of that ``source`` may not do something: the same, naming the command."""
    said = str(error)
    if not _IN_SCRIPT.search(said) or "run" not in said or _COMMAND.search(said):
        return None
    line = _SCRIPT_LINE.search(said)
    lines = source.decode().splitlines()
    called = _CALL.findall(lines[int(line[1]) - 1]) if line and 0 < int(line[1]) <= len(lines) else []
    return NoPermissionError(f"no permissions to run the '{called[0].lower()}' command") if called else None


def rule_that_is_missing(error: BaseException, in_script: str, key_rule: str, asked: str) -> str | None:
    """The ACL rule without which the server refused; None where ``error`` is no such refusal.

    ``in_script`` and ``key_rule``: what to name where Redis does not say which command a script was refused, and which
    key or channel. ``asked``: ``CONFIG GET`` for example; empty where that is not known.
    """
    said = str(error)
    if not isinstance(error, ResponseError):
        return None
    if "EXEC without MULTI" in said:  # redis-py goes on where MULTI was refused.
        return "+multi"
    if command := _COMMAND.search(said):
        name, _, subcommand = asked.lower().partition(" ")
        if command[1] == name and name in _WITH_SUBCOMMANDS and subcommand:
            return f"+{name}|{subcommand}"
        if command[1] == "script":
            return _SCRIPT_RULE
        return f"+{command[1]}"
    if not isinstance(error, NoPermissionError) and not _IN_SCRIPT.search(said):
        return None
    if _CHANNEL.search(said):
        return key_rule.replace("~", "&", 1)
    return key_rule if _KEY.search(said) else in_script
