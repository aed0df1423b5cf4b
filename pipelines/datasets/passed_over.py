"""What was not taken from under a dataset's path: counted by kind and named, so that nothing is left out in silence."""

from collections.abc import Mapping

_NAMED = 3  # of each kind
_KINDS = 6  # in the line


class PassedOver(dict[str, tuple[int, list[str]]]):
    """By kind, such as ".txt" or "hidden": how many were passed over, and the names of the first of them. JSON-able."""

    def add(self, kind: str, name: str) -> None:
        """Count one; name: below the dataset's folder."""
        count, names = self.get(kind, (0, []))
        self[kind] = count + 1, [*names, name][:_NAMED] if count < _NAMED else names

    def join(self, other: Mapping[str, tuple[int, list[str]]], below: str = "") -> None:
        """Count what another counted as well; below: what stands before its names."""
        for kind, (count, names) in other.items():
            before, named = self.get(kind, (0, []))
            self[kind] = before + count, (named + [below + name for name in names])[:_NAMED]

    @property
    def total(self) -> int:
        return sum(count for count, _ in self.values())

    def __str__(self) -> str:
        """ "8 files passed over: 5 .txt (cat/a.txt, cat/b.txt, ...), 3 hidden (...)", the most frequent kind first; empty when
        there were none."""
        if not self:
            return ""
        kinds = sorted(self.items(), key=lambda item: (-item[1][0], item[0]))
        parts = [
            f"{count:,} {kind} ({', '.join(names)}{', ...' if count > len(names) else ''})"
            for kind, (count, names) in kinds[:_KINDS]
        ]
        if rest := sum(count for _, (count, _) in kinds[_KINDS:]):
            parts.append(f"{rest:,} of other kinds")
        return f"{self.total:,} file{'s' if self.total > 1 else ''} passed over: {', '.join(parts)}"
