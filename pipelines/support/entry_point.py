"""How this room's entry points parse, fail and end: status 0 when done, 1 for a failure, 2 for bad usage or input.

An error is one line. Under MPI rank 0 alone speaks, and its failure ends every rank.
"""

import argparse
import errno
import io
import os
import re
import resource
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from pipelines.support.completion import COMPLETION, SHELLS, PrintCompletion
from pipelines.support.errors import DataError
from pipelines.support.meant import option_meant, value_meant
from pipelines.support.work_sharing import Ranks, WorkerLost, mpi_ranks

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
_MANY_FILES = 1 << 16  # more than needed; some programs close every file up to the limit, which can be 2**30
UNREAD = 128 + signal.SIGPIPE  # as a shell calls the end of a program whose output nobody reads, such as `... | head`


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line; an unknown option or value is answered with the known one that was
    meant. `--print-completion SHELL` prints what completes the options in a shell."""

    completes = True

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        if self.completes:
            self.add_argument(COMPLETION, action=PrintCompletion, choices=SHELLS, help=argparse.SUPPRESS)

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        # Before argparse misses a required option that was misspelt; a command within the line knows its own options.
        for word in sys.argv[1:] if args is None else args:
            if word == "--" or (self._subparsers is not None and not word.startswith("-")):
                break
            name = word.partition("=")[0]
            options = [option for option in self._option_string_actions if option.startswith("--")]
            known = [option[2:] for option in options if option != COMPLETION]
            # A name may be cut short where the parser allows it.
            begun = [f"--{option}" for option in known if option.startswith(name[2:])] if self.allow_abbrev else []
            if not name.startswith("--") or name in options:
                continue
            if 2 <= len(begun) <= 3:
                self.error(f"option {name} may be {' or '.join(begun)}: write more of it")
            if len(begun) != 1:
                self.error(f"option {name} does not exist; the nearest is --{option_meant(name[2:], known)}")
        return super().parse_known_args(args, namespace)

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        """What a name that is cut short may be: nothing that is for shells alone."""
        return [found for found in super()._get_option_tuples(option_string) if found[1] != COMPLETION]

    def error(self, message: str) -> NoReturn:
        raise DataError(f"{self.with_meant(message)} (see {self.prog} --help)")

    def with_meant(self, message: str) -> str:
        """argparse's message about a value that is none of the choices, with the choice that was meant."""
        wrong = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        return message + value_meant(wrong[1], [word.strip("'") for word in wrong[2].split(", ")]) if wrong else message


def run_entry_point(main: Callable[[Sequence[str], Ranks | None], int]) -> NoReturn:
    """Runs `main(command line, MPI ranks or None)` on rank 0 and ends the process; the other ranks do its tasks."""
    ranks: Ranks | None = None
    status, message = DONE, ""
    accept_any_name()
    open_many_files()
    warnings.filterwarnings("ignore", module=r"PIL\.")  # about odd tags in images: what matters is reported
    try:
        ranks = mpi_ranks()
        if ranks is not None and ranks.rank > 0:
            ranks.serve()
        else:
            status = main(sys.argv[1:], ranks)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else FAILED
    except DataError as error:
        status, message = BAD_INPUT, f"error: {error}"
    except OSError as error:
        status, message = (UNREAD, "") if unread(error) else (FAILED, f"error: {_os_error(error)}")
    except WorkerLost as error:
        status, message = FAILED, f"error: {error}"
    except KeyboardInterrupt:
        status, message = INTERRUPTED, "interrupted"
    except BaseException:
        status, message = FAILED, traceback.format_exc().rstrip()
    if message:
        print(message, file=sys.stderr, flush=True)
    status = end_output(status)
    if ranks is not None:
        if status:
            ranks.abort(status)
        if ranks.rank == 0:
            ranks.close()
        sys.exit(status)  # not _exit: MPI has to be finalised
    os._exit(status)  # worker processes end with this one, whatever they are doing


def accept_any_name() -> None:
    """Makes whatever is printed from now on printable: names of files need not be UTF-8, and a terminal may know ASCII or
    Latin-1 alone. What it cannot show appears as an escape such as \\xe9."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # else somebody keeps the words in memory
            stream.reconfigure(errors="backslashreplace")


def open_many_files() -> None:
    """Lets this process, and those that it starts, open as many files as its user may: shards, connections to a thousand
    ranks and their caches exceed the 1,024 that systems allow unless asked."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, _MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def unread(error: BaseException) -> bool:
    """Whether `error` means that standard output is a pipe which nobody reads any more."""
    if not isinstance(error, BrokenPipeError):
        return False
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in output.poll(0))  # else it was another pipe


def end_output(status: int) -> int:
    """Hands out what is left to print. Returns `status`, or UNREAD when all went well but for that."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output()
        return status or UNREAD
    return status


def discard_output() -> None:
    """Sends nowhere what is printed from now on, so that nothing fails for want of a reader."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def discard_hung_up() -> None:
    """The same for each of the standard streams whose terminal is gone: writing to it would fail (EIO)."""
    for descriptor in (1, 2):
        stream = select.poll()
        stream.register(descriptor, 0)
        if any(event & select.POLLHUP for _, event in stream.poll(0)):
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _os_error(error: OSError) -> str:
    what = error.strerror or str(error)
    where = f": {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{what}{where}; make room and run the same command again, it goes on where it stopped"
    return f"{what}{where}"
