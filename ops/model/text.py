"""Names, spans, counts and secrets as people may read them. Everything that is shown passes through here."""

import re

# Text is anybody's and may be long. Whether a name is a secret's is looked up in a lookahead, which is not tried again
# for each end that the name could have: the time grows as the length of the text does.
_URL_SECRET = re.compile(r"(://)[^/\s]*@")
_NAMED_SECRET = re.compile(
    r"""(?ix)
    \b (?= \w*?(?:passw(?:or)?d|passphrase|passcode|secret|token|api_?key) | (?-i:\w*[a-z]Keys?\b) | \w*_keys?\b
        | (?:\w*_)?(?:key|pass|pwd)\b )
    (\w+ ['"]? \s* [=:]{1,2} \s*)
    (?! (?:True|False|None) (?=[\s,;&)\]}]|$) )  # as in strict_map_key=True
    (?: b?'[^']*' | b?"[^"]*" | \[[^\[\]]*\] | [^\s,;&)]+ )
    """
)
# What Redis says of a command that it does not know goes on with the arguments: of AUTH and HELLO, the password.
_QUOTED_ARGUMENTS = re.compile(r"(with args beginning with:).*", re.DOTALL)


def visible(name: str) -> str:
    """``name`` with everything that a terminal, a log or a person could stumble over shown as an escape.

    Letters, digits and signs of any script stay; control, format (bidirectional marks among them), surrogate,
    private and unassigned code points and line separators become ``\\xNN`` or ``\\uNNNN``, and a backslash is doubled,
    so that two different names are never shown alike.
    """
    if name.isascii() and name.isprintable() and "\\" not in name:
        return name
    return "".join(_visible_character(character) for character in name)


def _visible_character(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if character.isprintable():
        return character
    if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte that was not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    if 0x80 <= ord(character) <= 0xFF:  # not \xNN, as which a byte is shown
        return f"\\u{ord(character):04x}"
    return character.encode("unicode_escape").decode("ascii")


def without_secrets(text: str) -> str:
    """``text`` without the credentials of URLs, values that are named as secrets, and arguments that Redis quotes."""
    text = _QUOTED_ARGUMENTS.sub(r"\1 ***", text)
    return _NAMED_SECRET.sub(r"\1***", _URL_SECRET.sub(r"\1***@", text))


def format_seconds(seconds: float) -> str:
    """``seconds`` for a person: ``0.25 s``, ``12 s``, ``3 min``, ``5 h``, ``2 d``."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """``1 group``, ``1,200 groups``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
