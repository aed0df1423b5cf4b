"""Shares tasks among the processes of one machine, or among MPI ranks on any number of machines.

Whoever is idle takes the next task, so that slow workers and slow disks only delay what they hold. One process, the
root, hands out the tasks and collects the results; the others know nothing of the job but the task they are given.
Needs mpi4py only under `mpirun` or `srun --mpi=...`.
"""

import ctypes
import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context
from typing import Any, Protocol

from pipelines.support.errors import DataError

Task = Any
Result = Any
_PAUSE = 0.0005  # seconds between looks for messages: MPI's own waiting would take a whole core
_LONGEST_PAUSE = 0.02


class Team(Protocol):
    """workers: how many tasks run at the same time."""

    workers: int

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[int, Result]]:
        """(position, function(task)) for every task, in the order in which they end; raises what a task raised.

        `function` is a module's function; tasks and results can be pickled.
        """


class WorkerLost(RuntimeError):
    """A worker process died or failed in a way that is no user's mistake; the message says what is known."""


class Processes:
    """A team of processes on this machine; `workers` of 1 works in this process."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None
        if workers > 1:
            # Forked: starts in milliseconds and shares what is imported. All at the first task, which is given at once,
            # while no thread runs here that could hold a lock.
            self._pool = ProcessPoolExecutor(workers, get_context("fork"), _become_worker, (os.getpid(),))
            self._pool.submit(os.getpid).result()

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[int, Result]]:
        if self._pool is None:
            for position, task in enumerate(tasks):
                yield position, function(task)
            return
        pending: dict[Future, int] = {}
        following = iter(enumerate(tasks))
        try:
            while True:
                while len(pending) < 2 * self.workers and (item := next(following, None)) is not None:
                    pending[self._pool.submit(function, item[1])] = item[0]
                if not pending:
                    return
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    yield pending.pop(future), future.result()
        except BrokenProcessPool:
            raise WorkerLost(
                "a worker process was killed, as the system does when memory runs out; "
                "use fewer --workers and run the same command again"
            ) from None

    def close(self) -> None:
        """End the worker processes, once their current tasks are done."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _become_worker(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group: the parent answers it
    # A pool's worker would wait for ever for a parent that was killed; Linux can send it along (prctl(2)).
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def mpi_ranks() -> "Ranks | None":
    """The ranks that `mpirun` or `srun` started, or nothing when this process was started alone.

    DataError when there are several processes that do not know each other, or mpi4py is missing.
    """
    if not any(name in os.environ for name in ("OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMIX_RANK")):
        if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
            raise DataError(
                "srun started processes that do not know each other: add --mpi=pmix (srun --mpi=list shows more)"
            )
        return None
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise DataError(f"mpi4py is needed to run on several processes ({error}): pip install -e '.[mpi]'") from None
    return Ranks(MPI)


class Ranks:
    """A team of MPI ranks. Rank 0 is the root and works too; the others call `serve`."""

    _TASK, _RESULT, _FAILURE, _END = range(4)

    def __init__(self, mpi: Any) -> None:
        self._mpi, self._comm = mpi, mpi.COMM_WORLD
        self.rank, self.workers = self._comm.rank, self._comm.size

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[int, Result]]:
        following = iter(enumerate(tasks))
        idle = list(range(self.workers))
        own: tuple[int, Future] | None = None
        thread = ThreadPoolExecutor(1)  # rank 0's own share; its main thread alone speaks MPI
        try:
            while True:
                while idle and (item := next(following, None)) is not None:
                    worker = idle.pop()
                    if worker == 0:
                        own = item[0], thread.submit(function, item[1])
                    else:
                        self._comm.send((function, *item), worker, self._TASK)
                if len(idle) == self.workers:
                    return
                for worker, position, result in self._results():
                    idle.append(worker)
                    yield position, result
                if own is not None and own[1].done():
                    position, future = own
                    own = None
                    idle.append(0)
                    yield position, future.result()
                elif own is not None:
                    with suppress(TimeoutError):
                        own[1].exception(_PAUSE)
                else:
                    time.sleep(_PAUSE)
        finally:
            thread.shutdown(wait=False, cancel_futures=True)  # after a failure nobody waits for rank 0's task

    def _results(self) -> Iterator[tuple[int, int, Result]]:
        status = self._mpi.Status()
        while self._comm.iprobe(status=status):
            worker, kind = status.source, status.tag
            message = self._comm.recv(source=worker, tag=kind)
            if kind == self._FAILURE:
                raise message
            yield worker, *message

    def serve(self) -> None:
        """Do tasks until the root ends; on every rank but 0."""
        while True:
            function, position, task = self._next()
            if function is None:
                return
            try:
                result = function(task)
            except BaseException as error:
                self._comm.send(_portable(error), 0, self._FAILURE)  # the root says it, and ends every rank
                continue
            self._comm.send((position, result), 0, self._RESULT)

    def _next(self) -> tuple[Callable | None, int, Task]:
        pause = _PAUSE
        while not self._comm.iprobe(source=0):
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return self._comm.recv(source=0)

    def close(self) -> None:
        """Send the other ranks home; on rank 0."""
        for worker in range(1, self.workers):
            self._comm.send((None, 0, None), worker, self._END)

    def abort(self, status: int) -> None:
        """End every rank at once with a failing exit status, wherever it is."""
        self._comm.Abort(status)


def _portable(error: BaseException) -> BaseException:
    """The error as another process can raise it: itself if it is one that users cause, else its traceback as text."""
    if isinstance(error, DataError | OSError):
        with suppress(Exception):
            pickle.loads(pickle.dumps(error))
            return error
    return WorkerLost("".join(traceback.format_exception(error)).rstrip())
