"""Stages of the set-up: one line each with what it cost, their output in a log."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

_TAIL = 12  # lines of the log that are shown of a stage that failed


@dataclass(frozen=True)
class Cost:
    """What a stage took: seconds, bytes that the machine received meanwhile (None where Linux does not tell), bytes that
    the environment and the distribution's packages grew by."""

    seconds: float
    received: int | None
    disk: int

    def __str__(self) -> str:
        received = "" if self.received is None else f"   {in_units(self.received):>8} received"
        return f"{self.seconds:5.0f} s{received}   {in_units(self.disk):>8} on disk"


class Stages:
    """Runs the stages of one set-up, prints their costs and keeps them.

    log: receives the commands' output; folder: whose growth is the disk that a stage took.
    """

    def __init__(self, log: Path, folder: Path) -> None:
        self.log, self._folder = log, folder
        self.done: list[dict[str, Any]] = []
        self._start = _Reading.now(folder)
        log.write_text("")

    def run(
        self, label: str, command: Sequence[str], variables: Mapping[str, str] | None = None, quiet: bool = False
    ) -> bool:
        """Whether `command` ended well. Its cost is printed after the label; of one that failed, unless `quiet`, the end
        of its output. variables: added to its environment."""
        print(f"  {label:<44} ", end="", flush=True)
        before, size = _Reading.now(self._folder), self.log.stat().st_size
        with self.log.open("ab") as log:
            log.write(f"$ {' '.join(command)}\n".encode())
            log.flush()
            # Files stay open in the command: it holds the set-up's lock too, should this process be killed before it.
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(variables or {})},
                close_fds=False,
                check=False,
            )
        cost = before.until_now()
        well = done.returncode == 0
        self.done.append({"stage": label, "well": well, **asdict(cost)})
        if well:
            print(cost)
        elif quiet:
            print(f"cannot be had: {self._reason(size)}")
        else:
            print(f"failed after {cost.seconds:.0f} s; the log ends:")
            for line in self._output(size)[-_TAIL:]:
                print(f"    | {line}")
        return well

    def total(self) -> Cost:
        """What all of them took together, and what lay between them."""
        whole = self._start.until_now()
        return Cost(whole.seconds, whole.received, sum(stage["disk"] for stage in self.done))

    def _reason(self, since: int) -> str:
        """What a command's output, from byte `since` of the log on, says went wrong, in one line."""
        lines = [line.strip() for line in self._output(since)]
        errors = [line.partition("ERROR: ")[2] for line in lines if line.startswith("ERROR: ")]
        if "The conflict is caused by:" in lines:  # pip: who asks for what, up to an empty line
            causes = lines[lines.index("The conflict is caused by:") + 1 :]
            errors = ["; ".join(takewhile(bool, causes))]
        # uv says it in a sentence over several lines.
        because = [place for place, line in enumerate(lines) if line.startswith(("cause: ", "╰─▶ "))]
        errors = errors or [" ".join(lines[because[0] :] if because else lines[-1:])]
        return errors[-1].removeprefix("cause: ").removeprefix("╰─▶ ")[:200]

    def _output(self, since: int) -> list[str]:
        """The lines of the log from byte `since` on, but for the command in the first."""
        return self.log.read_bytes()[since:].decode(errors="replace").splitlines()[1:]


@dataclass(frozen=True)
class _Reading:
    folder: Path
    time: float
    received: int | None
    disk: int

    @classmethod
    def now(cls, folder: Path) -> "_Reading":
        return cls(folder, time.monotonic(), _received(), _size(folder) + _distribution_size())

    def until_now(self) -> Cost:
        now = self.now(self.folder)
        received = None if now.received is None or self.received is None else now.received - self.received
        return Cost(round(now.time - self.time, 1), received, now.disk - self.disk)


def _received() -> int | None:
    """Bytes that this machine's interfaces received since it started, but for the loopback."""
    try:
        lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    except OSError:
        return None
    counts = [line.split(":") for line in lines]
    return sum(int(fields.split()[0]) for name, fields in counts if name.strip() != "lo")


def _size(folder: Path) -> int:
    """Bytes on disk of all files under a folder."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_blocks * 512  # noqa: PTH118 - pathlib takes 10 times as long
            except OSError:
                continue
    return total


def _distribution_size() -> int:
    """Bytes of the distribution's packages by its own account; 0 where it keeps none."""
    for command, unit in (
        (["dpkg-query", "--show", "--showformat", "${Installed-Size}\n"], 1024),
        (["rpm", "-qa", "--queryformat", "%{SIZE}\n"], 1),
    ):
        try:
            listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        except (OSError, subprocess.CalledProcessError):
            continue
        return unit * sum(int(size) for size in listed if size.isdigit())
    return 0


def in_units(count: float) -> str:
    """A number of bytes as people read it: 3.1 GB, 41 MB."""
    return f"{count / 1e9:.1f} GB" if abs(count) >= 1e9 else f"{count / 1e6:.0f} MB"
