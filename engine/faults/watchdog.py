"""Hung ranks: noticed, named, and made to leave a trace of where every thread stood."""

import contextlib
import faulthandler
import os
import sys
import threading
import time
from pathlib import Path
from typing import TextIO

from torch.distributed import Store

from engine.faults.exit_status import FAILED, fail, meeting_place
from engine.faults.guard import SIGNAL, Guard
from launch.environment import Environment

# A first time may compile, for so much longer [seconds].
_FIRST_SECONDS = 7200.0
# So many intervals in which the watching thread had no turn mean that the process was suspended.
_STANDSTILL = 10
# The ranks that wait for a hung one must not give up first, with an error that blames the connection.
_SHARE_OF_TIMEOUT = 0.8


def record_collectives(folder: Path) -> None:
    """Has NCCL's flight recorder keep the last collectives and write them to `folder` when one times out. Variables that
    the user has set stay. Takes effect on process groups made later."""
    for name, value in (
        ("TORCH_FR_BUFFER_SIZE", "2000"),
        ("TORCH_NCCL_DUMP_ON_TIMEOUT", "1"),
        ("TORCH_FR_DUMP_TEMP_FILE", f"{folder}/nccl-rank-"),
    ):
        os.environ.setdefault(name, value)


class Watchdog:
    """Ends this process when it makes no progress for most of `timeout` seconds.

    The stacks of all its threads go to `folder`/rank-N.txt. The ranks tell each other how far they came: the one that
    is behind, or that cannot even answer, is the one they name. A process that holds Python's lock for so long, in
    compiled code, is ended by its guard. The time during which the process is suspended does not count.
    """

    def __init__(self, folder: Path, timeout: float, environment: Environment):
        folder.mkdir(exist_ok=True)
        self._file = folder / f"rank-{environment.rank}.txt"
        self._patience, self._reports_patience = _SHARE_OF_TIMEOUT * timeout, max(1.0, timeout / 10)
        self._environment = environment
        self._store: Store | None = meeting_place(environment) if environment.world_size > 1 else None
        self._seen: set[str] = set()
        self._standstills, self._excused = 0, 0.0
        self._count = 0
        self.begin("starting")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def begin(self, what: str) -> None:
        """Progress: `what` begins. The first time of each may take hours more, since it may compile."""
        self._doing, self._count = what, self._count + 1
        self._first = what not in self._seen
        self._deadline: float | None = time.monotonic() + self._patience + (_FIRST_SECONDS if self._first else 0.0)
        self._seen.add(what)

    def close(self) -> None:
        """Stops watching."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(OSError):  # other ranks may still have their files there
            self._file.parent.rmdir()

    def _watch(self) -> None:
        interval = min(1.0, self._patience / 10)
        with self._opened() as file:
            faulthandler.register(SIGNAL, file=file, all_threads=True, chain=True)
            guard = self._guard(interval)
            last, worked = time.monotonic(), time.process_time()
            while not self._ended.wait(interval):
                stood, busy = time.monotonic() - last - interval, time.process_time() - worked
                last, worked = last + interval + stood, worked + busy
                if stood > _STANDSTILL * interval and busy < stood / 2:  # else Python's lock was kept from this thread
                    self._excuse(stood)
                deadline = self._deadline
                if guard is not None:
                    guard.beat(watched=deadline is not None and not self._first)
                if deadline is not None and last >= max(deadline, self._excused):
                    self._give_up(file)
            if guard is not None:
                guard.close()
            faulthandler.unregister(SIGNAL)
        with contextlib.suppress(OSError):  # empty, and in nobody's way
            self._file.unlink(missing_ok=True)

    def _opened(self) -> contextlib.AbstractContextManager[TextIO]:
        """Where stacks would go: the file, or where that cannot be made the process's own words."""
        try:
            return self._file.open("w", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            with contextlib.suppress(OSError):
                print(f"stacks of a hang would be printed: {self._file} cannot be made ({error.strerror})", flush=True)
            return contextlib.nullcontext(sys.stderr)

    def _guard(self, interval: float) -> Guard | None:
        """A guard beside this process, which says why it ends it where no other rank does; None where none can be started."""
        words = (
            f"error: no progress was made for {self._patience:.0f} s, in code that keeps Python's lock; where every thread "
            f"stood is in {self._file.parent}"
        )
        try:
            return Guard(self._patience, interval, words if self._environment.world_size == 1 else "")
        except OSError as error:
            with contextlib.suppress(OSError):
                print(f"hangs in compiled code will not be noticed: no process can be started ({error})", flush=True)
            return None

    def _excuse(self, seconds: float) -> None:
        """Begins the limit anew after this thread did not have its turn for `seconds`, and says so; of several ranks, one."""
        self._excused = time.monotonic() + self._patience
        self._standstills += 1
        with contextlib.suppress(RuntimeError):
            if self._store is not None and self._store.add(f"standstill/{self._standstills}", 1) > 1:
                return
        with contextlib.suppress(OSError):  # nobody reads it any more
            print(
                f"stood still for {seconds:.0f} s (suspended, by the look of it) and goes on; the limit of "
                f"{self._patience:.0f} s without progress begins anew",
                flush=True,
            )

    def _give_up(self, file: TextIO) -> None:
        count, doing = self._count, self._doing
        file.write(f"rank {self._environment.rank} made no progress for {self._patience:.0f} s ({doing})\n\n")
        file.flush()
        faulthandler.dump_traceback(file, all_threads=True)
        where = f"where every thread stood is in {self._file.parent}"
        os._exit(fail(FAILED, f"error: {self._culprit(count, doing)} for {self._patience:.0f} s; {where}"))

    def _culprit(self, count: int, doing: str) -> str:
        """Who holds up the run, in words."""
        ranks = self._environment.world_size
        if self._store is None:
            return describe_hang({0: (count, doing)}, 1)
        self._store.set(f"stuck/{self._environment.rank}", f"{count} {doing}")
        answers = {self._environment.rank: (count, doing)}
        give_up = time.monotonic() + self._reports_patience
        while len(answers) < ranks and time.monotonic() < give_up:
            if self._ended.wait(0.05):
                break  # a rank that did not answer is gone, and this one is on its way out
            for rank in set(range(ranks)) - set(answers):
                if self._store.check([f"stuck/{rank}"]):
                    number, words = self._store.get(f"stuck/{rank}").decode().split(" ", 1)
                    answers[rank] = (int(number), words)
        return describe_hang(answers, ranks)


def describe_hang(answers: dict[int, tuple[int, str]], world_size: int) -> str:
    """Names the ranks that others wait for. `answers` holds, by rank, how many things it began and the last of them."""
    silent = [rank for rank in range(world_size) if rank not in answers]
    if silent:
        return f"{named_ranks(silent)} neither made progress nor answered"
    least = min(number for number, _ in answers.values())
    behind = [rank for rank, (number, _) in answers.items() if number == least]
    what = answers[behind[0]][1]
    if len(behind) == world_size:
        return f"no rank made progress ({what})" if world_size > 1 else f"no progress was made ({what})"
    return f"{named_ranks(behind)} made no progress ({what}) and kept the others waiting"


def named_ranks(numbers: list[int]) -> str:
    """The first few of these ranks, in words."""
    shown = ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
    return f"rank {shown}" if len(numbers) == 1 else f"ranks {shown}"
