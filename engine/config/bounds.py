"""The bounds of a numeric option, declared beside its default: `lr: float = bounded(0.1, above=0, most=1000)`."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

_KEY = "bounds"
Default = TypeVar("Default")


@dataclass(frozen=True)
class Bounds:
    """Where a number may lie: from `least`, or strictly `above`, to `most`, or strictly `below`."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def __post_init__(self) -> None:
        if (self.least is None) == (self.above is None) or (self.most is None) == (self.below is None):
            raise ValueError("an option needs one lower and one upper bound")

    def hold(self, value: float) -> bool:
        """Whether `value` lies within; not a number lies nowhere."""
        high_enough = value >= self.least if self.least is not None else value > self.above  # type: ignore[operator]
        low_enough = value <= self.most if self.most is not None else value < self.below  # type: ignore[operator]
        return math.isfinite(value) and high_enough and low_enough

    def __str__(self) -> str:
        if self.least is not None and self.most is not None:
            return f"from {self.least} to {self.most}"
        low = f"at least {self.least}" if self.least is not None else f"above {self.above}"
        return f"{low} and " + (f"at most {self.most}" if self.most is not None else f"below {self.below}")


def bounded(default: Default, **limits: float) -> Default:
    """A field of a dataclass of options whose numbers, each one of a tuple's, must lie within `Bounds(**limits)`.

    What is no number is not compared: null, and the words that the option's type allows instead.
    """
    return field(default=default, metadata={_KEY: Bounds(**limits)})  # type: ignore[return-value]


def bounds_of(tree: Any, prefix: str = "") -> Iterator[tuple[str, Bounds]]:
    """(dotted name, bounds) of every bounded option in a tree of dataclasses."""
    for entry in fields(tree):
        value = getattr(tree, entry.name)
        if is_dataclass(value):
            yield from bounds_of(value, f"{prefix}{entry.name}.")
        elif _KEY in entry.metadata:
            yield f"{prefix}{entry.name}", entry.metadata[_KEY]
