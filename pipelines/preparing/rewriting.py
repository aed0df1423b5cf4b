"""What every store's module gives back of an image."""

from typing import NamedTuple


class Rewritten(NamedTuple):
    """data: the bytes to store; nothing for an image that stays as it is, and then why, in a word or two that images of the
    same kind share. extension: that its name gets, without the dot; nothing for the one it has."""

    data: bytes | memoryview | None
    why: str = ""
    extension: str = ""
