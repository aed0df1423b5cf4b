"""One run in a directory at a time, on shared file systems too.

The lock is a file that names host and process and whose heart beats. It appears by a hard link, which is exclusive on NFS
as well; no lock of the file system is needed. A process of this machine is asked for by its number and start; of any other,
the heartbeats are watched: clocks are never compared.
"""

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.config.options import ConfigError
from engine.faults.errors import TrainingFailed
from engine.runs.checkpoint_file import naming

BEAT_SECONDS = 5.0
BEATS_OF_PATIENCE = 4  # without one, a run on another machine is taken for dead
_WIDTH = 12  # digits of the counter, so that a beat overwrites the one before it


class RunLock:
    """The lock of the run in `folder`, for as long as the run takes. `close` gives it back."""

    def __init__(self, folder: Path):
        self._folder, self._path = folder, folder / "lock"
        self._file: int | None = None
        self._content = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="run lock", daemon=True)
        self.lost = False

    def acquire(self, say: Callable[[str], None]) -> None:
        """Takes the lock. Raises ConfigError, naming host and process, when a living run has it; a dead one's is taken over,
        which `say` is told, as that a run elsewhere is being watched for signs of life."""
        while not self._create():
            content = _read(self._path)
            if content is None:
                continue  # it was given back just now
            if self._is_alive(content, say):
                raise ConfigError(
                    f"{self._folder} is in use by {_owner(content)}: wait for it to end, or choose another --run.dir"
                )
            self._remove(content)
            say(f"took over {self._folder} from {_owner(content)}, which is gone")
        self._thread.start()

    def require_held(self) -> None:
        """Raises TrainingFailed when another run has taken this one for dead: nothing more may be written."""
        if self.lost:
            raise TrainingFailed(
                f"another run took over {self._folder} while this one stood still; nothing more was written"
            )

    def _create(self) -> bool:
        """Whether the lock could be made."""
        holder = {
            "host": platform.node(),
            "process": os.getpid(),
            "started": _started(os.getpid()),
            "machine": _machine(),
            "token": uuid.uuid4().hex,
        }
        self._content = json.dumps(holder)
        temporary = self._folder / f".lock.{holder['token']}"
        file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with naming(temporary):
                _write_beat(file, self._content, 0)
            os.link(temporary, self._path)
        except FileExistsError:
            os.close(file)
            return False
        except OSError:  # no hard links here; creation alone is exclusive too
            os.close(file)
            try:
                file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                return False
            with naming(self._path):
                _write_beat(file, self._content, 0)
        finally:
            temporary.unlink(missing_ok=True)
        self._file = file
        return True

    def _is_alive(self, content: str, say: Callable[[str], None]) -> bool:
        holder = _parsed(content)
        if holder.get("machine") == _machine():
            return _started(holder["process"]) == holder["started"]
        patience = BEATS_OF_PATIENCE * BEAT_SECONDS
        say(f"{self._folder} is locked by {_owner(content)}; watching for {patience:.0f} s whether it lives")
        give_up = time.monotonic() + patience
        while time.monotonic() < give_up:
            time.sleep(BEAT_SECONDS / 10)
            if _read(self._path) != content:
                return True
        return False

    def _remove(self, content: str) -> None:
        """Takes a dead run's lock away, and nobody else's who was faster."""
        aside = self._folder / f".lock.dead.{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):
            self._path.rename(aside)
            if _parsed(_read(aside) or "").get("token") != _parsed(content).get("token"):
                with contextlib.suppress(OSError):
                    os.link(aside, self._path)
            aside.unlink(missing_ok=True)

    def _beat(self) -> None:
        assert self._file is not None
        number = 0
        while not self._ended.wait(BEAT_SECONDS):
            number += 1
            with contextlib.suppress(OSError):  # a disk that is full or away for a while, or a file that is gone
                _write_beat(self._file, self._content, number)
            # After a long standstill another run may have taken this one for dead.
            with contextlib.suppress(OSError):
                self.lost = self.lost or self._is_anothers()

    def _is_anothers(self) -> bool:
        """Whether the lock that is there now is another run's; by its token, since numbers of files are used again."""
        content = _read(self._path)
        return content is not None and _parsed(content).get("token") != _parsed(self._content)["token"]

    def close(self) -> None:
        """Gives the lock back, if it was taken and is still held."""
        if self._file is None:
            return
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if not self._is_anothers():
                self._path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = None


def _write_beat(file: int, content: str, number: int) -> None:
    os.pwrite(file, f"{content}\n{number:0{_WIDTH}}\n".encode(), 0)
    os.fsync(file)


def _read(path: Path) -> str | None:
    try:
        with naming(path):
            return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _parsed(content: str) -> dict[str, Any]:
    try:
        holder = json.loads(content.partition("\n")[0])
    except json.JSONDecodeError:  # being written, or by somebody else
        return {}
    return holder if isinstance(holder, dict) else {}


def _owner(content: str) -> str:
    holder = _parsed(content)
    return f"process {holder.get('process', '?')} on {holder.get('host', 'another host')}"


def _machine() -> str:
    """This boot of this machine, and the numbering of processes that this one sees."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(process: int) -> str:
    """When a process of this machine began, in its clock's ticks; empty when it is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] in "ZX" else fields[19]
