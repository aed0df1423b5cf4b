"""What changed since the previous result of the same benchmark, asked in the same way, on the same machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.measuring import change_beyond_noise, machine_line
from benchmarks.reporting.results import Row

# Options that say how exactly to measure, not what.
_PRECISION = {"windows", "seconds", "budget", "rounds", "output"}


@dataclass(frozen=True)
class Change:
    """How a row moved since the previous result; `beyond_noise` as measured."""

    relative: float
    beyond_noise: bool
    better: bool

    @property
    def shown(self) -> str:
        word = ("better" if self.better else "WORSE") if self.beyond_noise else "within noise"
        return f"{self.relative:+.1%} {word}"


@dataclass(frozen=True)
class Section:
    """The newest result, the previous one, and the changes of the rows by key."""

    result: dict[str, Any]
    previous: dict[str, Any] | None
    changes: dict[str, Change]

    @property
    def title(self) -> str:
        asked = self.result["command"].partition(".py")[2]
        return f"{self.result['benchmark']}{asked} on {machine_line(self.result['machine'])}"

    @property
    def regressions(self) -> list[str]:
        """The rows that became worse beyond the noise, in words."""
        changed = [(row, self.changes[row.key]) for row in self.result["rows"] if row.key in self.changes]
        return [f"{_case(row)}: {c.shown}" for row, c in changed if c.beyond_noise and not c.better]


def newest_sections(results: Sequence[dict[str, Any]]) -> list[Section]:
    """A section for what a benchmark was asked and on which machine, in the order of the names, the newest first."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["benchmark"], result["machine"]["id"]), []).append(result)
    sections = []
    for _, group in sorted(groups.items()):
        while group:
            newest = group.pop()
            earlier = [result for result in group if _same_question(result["options"], newest["options"])]
            group = [result for result in group if result not in earlier]
            previous = earlier[-1] if earlier else None
            sections.append(Section(newest, previous, _changes(newest, previous) if previous else {}))
    return sections


def _same_question(left: dict[str, Any], right: dict[str, Any]) -> bool:
    """Whether two runs were to measure the same, however precisely; options that only one of them knows do not count."""
    return all(left[option] == right[option] for option in (left.keys() & right.keys()) - _PRECISION)


def _changes(newest: dict[str, Any], previous: dict[str, Any]) -> dict[str, Change]:
    """The change of every row that both results have, by key. Rows of fewer than three values have no known noise."""
    before = {row.key: row for row in previous["rows"] if row.value}
    found = {}
    for row in newest["rows"]:
        old = before.get(row.key)
        if old is not None and row.value is not None:
            repeated = min(len(row.values), len(old.values)) >= 3
            beyond = repeated and change_beyond_noise(row.values, old.values) is not None
            relative = row.value / old.value - 1
            found[row.key] = Change(relative, beyond, (relative > 0) == row.higher_is_better)
    return found


def _case(row: Row) -> str:
    return ", ".join(str(value) for value in row.case.values() if value != "")
