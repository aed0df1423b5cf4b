"""How an entry point ends: exit statuses, one line for a user's mistake, and the first cause alone when ranks fail together.

When one of many ranks fails, the others fail a moment later with errors about a lost connection. The launcher's
key-value store keeps who was first: that rank speaks and sets the status, the others end silently with it.
"""

import contextlib
import errno
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import NoReturn

from torch.distributed import DistError, DistStoreError, PrefixStore, Store, TCPStore

from engine.config.options import ConfigError
from engine.faults.errors import CheckpointError, TrainingFailed
from inception import NetworkError
from launch.environment import Environment, LaunchError, detect
from pipelines import DataError
from pipelines.support.entry_point import UNREAD, accept_any_name, end_output, open_many_files, unread

DONE, FAILED, BAD_INPUT, PREEMPTED = 0, 1, 2, 75
USER_ERRORS = (CheckpointError, ConfigError, DataError, NetworkError)
# What disks, file systems and those who use them do to a program that is right.
_OF_FILES = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM, errno.ENOENT, errno.EISDIR,
    errno.ENOTDIR, errno.ENAMETOOLONG, errno.EFBIG, errno.EMFILE, errno.ENFILE,
)  # fmt: skip
_STORE_PATIENCE = timedelta(seconds=3)
# In seconds:
_OTHER_RANKS_PATIENCE = 3.0
_PAUSE = 0.02  # between looks at the store
_FIRST_RANK_PATIENCE = 30.0  # its imports may take that much longer on a busy machine


def run_entry_point(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Runs `main(command line)` and ends the process with its status, or with what its exception means.

    Status 2 for bad usage or input, in one line; 1 for a failure of the run; 1 and a traceback for anything else.
    """
    accept_any_name()
    open_many_files()
    try:
        status = main(sys.argv[1:])
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else FAILED
    except LaunchError as error:
        # Without the other ranks: how to reach them is what is wrong.
        status = BAD_INPUT
        print(f"error: {error}", file=sys.stderr, flush=True)
    except USER_ERRORS as error:
        status = fail(BAD_INPUT, f"error: {error}")
    except TrainingFailed as error:
        status = fail(FAILED, f"error: {error}")
    except KeyboardInterrupt:
        status = 130
    except BaseException as error:
        status = UNREAD if unread(error) else fail(FAILED, _in_words(error) or traceback.format_exc().rstrip())
    status = end_output(status)
    # A failed rank must not wait in the destructors of process groups or threads that need the other ranks.
    os._exit(status)


def _in_words(error: BaseException) -> str | None:
    """One line for what is no mistake of the program; None where a traceback says more."""
    if isinstance(error, OSError) and error.errno in _OF_FILES:
        where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes | os.PathLike) else "a file"
        return (
            f"error: {where} could not be read or written ({error.strerror}): mend that and give the same command again; "
            "training goes on where it saved"
        )
    if isinstance(error, DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
        reason = str(error).splitlines()[0].split("] ")[-1].split(". This is")[0]
        return f"error: another rank was lost, or kept this one waiting beyond --strategy.timeout ({reason})"
    return None


def meeting_place(environment: Environment) -> Store:
    """A connection of its own to the run's key-value store, for what ranks tell each other beside training.

    Where no agent keeps one (srun, mpirun) and the first rank has not come so far, the first rank opens it here. Raises
    DistStoreError when there is none.
    """
    present = _store_listens(environment, patience=0.0 if environment.hosts_store else _FIRST_RANK_PATIENCE)
    if not present and not environment.hosts_store:
        raise DistStoreError("the first rank keeps no store")
    store = TCPStore(
        environment.master_address,
        environment.master_port,
        is_master=not present,
        timeout=_STORE_PATIENCE,
        wait_for_workers=False,
    )
    return PrefixStore(f"aside/{environment.restart}", store)


def _store_listens(environment: Environment, patience: float) -> bool:
    """Whether something listens at the rendezvous, asked without the page that TCPStore writes when nothing does."""
    give_up = time.monotonic() + patience
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection((environment.master_address, environment.master_port), timeout=1.0).close()
            return True
        if time.monotonic() >= give_up:
            return False
        time.sleep(0.1)


def fail(status: int, text: str) -> int:
    """Prints `text` if this rank is the first to fail; returns the status of the whole run."""
    try:
        environment = detect()
    except LaunchError:
        environment = Environment()
    if not environment.distributed:
        print(text, file=sys.stderr, flush=True)
        return status
    mine = f"{environment.rank} {status}"
    try:
        store = meeting_place(environment)
        first = store.compare_set("failure", "", mine).decode()
    except RuntimeError:
        # No store to ask: better the same line from several ranks than from none.
        with contextlib.suppress(OSError):
            print(f"[rank {environment.rank}] {text}", file=sys.stderr, flush=True)
        return status
    if first == mine:
        print(text, file=sys.stderr, flush=True)
    with contextlib.suppress(RuntimeError):  # the store's rank did not wait any longer
        _leave_together(store, environment)
    return int(first.split()[1])


def _leave_together(store: Store, environment: Environment) -> None:
    """The launcher stops the other ranks as soon as one ends: lets those with the same error end by themselves, and waits on
    the rank that takes the store along until they have heard all that they ask."""
    met, left = "failure/met", "failure/left"
    store.add(met, 1)
    give_up = time.monotonic() + _OTHER_RANKS_PATIENCE
    while store.add(met, 0) < environment.world_size and time.monotonic() < give_up:
        time.sleep(_PAUSE)
    store.add(left, 1)
    give_up = time.monotonic() + _OTHER_RANKS_PATIENCE
    while environment.hosts_store and store.add(left, 0) < store.add(met, 0) and time.monotonic() < give_up:
        time.sleep(_PAUSE)
