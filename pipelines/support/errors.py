"""The one error that data raises: a folder, shard, sample or setting that a person has to put right."""

from collections.abc import Iterable
from difflib import get_close_matches


class DataError(ValueError):
    """A user's mistake or a bad sample; the message is one line that says what is wrong, where, and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def nearest(word: str, words: Iterable[str]) -> str:
    """`" (nearest: X)"` for the closest of `words`, or nothing when none is close: the tail of an error message."""
    found = get_close_matches(word, list(words), n=1)
    return f" (nearest: {found[0]})" if found else ""
