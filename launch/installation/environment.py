"""The virtual environment of a clone: what kind it is, what it holds already, and that one set-up at a time changes it."""

import fcntl
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

# What set-up makes in the folder; anything else there is somebody's own.
_PARTS = frozenset({"bin", "lib", "lib64", "include", "share", "etc", "pyvenv.cfg"})
_PARTS |= {"build", "build.cfg", "constraints.txt", "setup.stamp"}
_KEPT = frozenset({"setup.lock", "setup.log"})
_SCOPES = ("training", "all", "all with FFCV")


@dataclass(frozen=True)
class Environment:
    """The environment in `venv` for the clone in `root`, of the Python that runs this; torch: its version where it is
    another than the constraints'; cpu: whether without CUDA. `choosing` says both."""

    root: Path
    venv: Path
    torch: str = ""
    cpu: bool = False

    def choosing(self, torch: str | None, cpu: bool) -> "Environment":
        """This one with the choices given; where none is, those that it was made with stand."""
        stamp = self._stamp()
        if torch or cpu:
            return replace(self, torch=torch or "", cpu=cpu)
        return replace(self, torch=stamp.get("torch", ""), cpu=bool(stamp.get("cpu")))

    def is_there(self) -> bool:
        """Whether `venv` is an environment of this kind, whatever is installed in it."""
        return self._stamp().get("kind") == self._kind() and (self.venv / "bin" / "python").exists()

    def holds(self, scope: str) -> bool:
        """Whether everything of `scope` (training, all, all with FFCV) is installed."""
        held = self._stamp().get("scope", "")
        return self.is_there() and held in _SCOPES and _SCOPES.index(held) >= _SCOPES.index(scope)

    def record(self, scope: str) -> None:
        """Remembers that everything of `scope` is installed; never less than before."""
        if not self.holds(scope):
            stamp = {"kind": self._kind(), "scope": scope, "torch": self.torch, "cpu": self.cpu}
            (self.venv / "setup.stamp").write_text(json.dumps(stamp) + "\n")

    def is_foreign(self) -> bool:
        """Whether `venv` is a folder with something else in it."""
        return not (self.venv / "pyvenv.cfg").exists() and any(
            entry.name not in _PARTS | _KEPT for entry in self.venv.iterdir()
        )

    def clear(self) -> None:
        """Removes the environment that is there; not the lock, which a waiting set-up holds open."""
        for entry in self.venv.iterdir():
            if entry.name not in _PARTS:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def _stamp(self) -> dict[str, Any]:
        try:
            stamp = json.loads((self.venv / "setup.stamp").read_text())
        except (OSError, ValueError):
            return {}
        return stamp if isinstance(stamp, dict) else {}

    def _kind(self) -> str:
        """Changes whenever the environment has to be made anew."""
        texts = [(self.root / name).read_text() for name in ("setup.py", "launch/constraints.txt")]
        # One interpreter has many names (bin/python, bin/python3.13, a shim): the installation it belongs to has one.
        base = f"{os.path.realpath(sys.base_prefix)} {sys.version}"
        choices = f"{self.root} {base} torch {self.torch} {'CPU' if self.cpu else 'CUDA'}"
        return sha256("\n".join([*texts, choices]).encode()).hexdigest()


@contextmanager
def locked(venv: Path) -> Iterator[None]:
    """One set-up at a time in `venv`: a second one says that it waits, then finds the work done. The kernel drops the
    lock with its last holder."""
    with (venv / "setup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("set-up: another one is at work here; waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        os.set_inheritable(lock.fileno(), True)
        yield


def least_torch(setup: Path) -> str:
    """The lower bound of torch in setup.py."""
    found = re.search(r'"torch>=([\d.]+)"', setup.read_text())
    assert found, f"{setup} names no lower bound of torch"
    return found[1]


def is_version(text: str) -> bool:
    return re.fullmatch(r"\d+\.\d+(\.\d+)?", text) is not None


def order(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]
