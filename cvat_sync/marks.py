"""The mark at the end of a comment we posted: how it is found again, and told from a person's."""

import re
from collections.abc import Iterable

KEY_DIGITS = 12
_MARK = re.compile(r"\[angioloop ([0-9a-f]{12})\]")


def marked(text: str, key: str) -> str:
    """A comment's text with its mark."""
    return f"{text} [angioloop {key}]"


def keys_of(messages: Iterable[str]) -> frozenset[str]:
    """The marks in some messages."""
    return frozenset(key for message in messages for key in _MARK.findall(message))


def is_unanswered(text: str) -> bool:
    """Whether an issue's comments are one of ours and no word of a person."""
    found = _MARK.findall(text)
    return len(found) == 1 and text.rstrip().endswith(f"[angioloop {found[0]}]")
