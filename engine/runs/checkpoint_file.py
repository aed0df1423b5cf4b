"""Checkpoints on disk: written whole or not at all, found without a pointer file, refused when damaged.

A checkpoint is one file, `step-000001234.pt`, the same for every strategy and number of ranks. It is torch's zip
format, whose members carry checksums; they are checked before anything is loaded.
"""

import contextlib
import errno
import io
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from engine.faults.errors import CheckpointError

FORMAT = "inception-checkpoint-2"
_FIRST_FORMAT = "inception-checkpoint-1"


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of `step` lies."""
    return folder / f"step-{step:09d}.pt"


def checkpoint_step(path: Path) -> int:
    """The step in a checkpoint's name."""
    return int(path.stem.partition("-")[2])


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Writes `state` as the checkpoint of `step`.

    The file appears under its name only when it is complete and on the disk. Raises OSError or torch's RuntimeError when
    it cannot be written; what was there before stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for interrupted in folder.glob("*.tmp"):  # of the best weights too
        interrupted.unlink(missing_ok=True)
    _require_room(folder, state)
    path = checkpoint_path(folder, step)
    temporary = path.with_suffix(".tmp")
    try:
        with naming(temporary), temporary.open("wb") as file:
            _save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # half a checkpoint would take the room that the next one needs
        raise
    sync_folder(folder)
    return path


def _save(state: dict[str, Any], file: BinaryIO) -> None:
    """torch.save, whose own error does not say why the disk did not take it: OSError that does."""
    watched = _Watched(file)
    try:
        torch.save(state, watched)  # type: ignore[arg-type]
    except RuntimeError:
        if watched.error is not None:
            raise watched.error from None
        raise


class _Watched(io.RawIOBase):
    """Writes to `file` and remembers the `error` that it met."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise


def write_whole(path: Path, text: str) -> None:
    """Writes a small file, which is complete under its name or not there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path), temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Within it, an OSError that does not say of which file it is, as that of a full disk, says `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def _require_room(folder: Path, state: Mapping[str, Any]) -> None:
    """Raises OSError when the disk has no room for `state`, before other programs suffer from a full one."""
    needed = sum(tensor.nbytes for tensor in _tensors(state))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB free", str(folder))


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _tensors(value)


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with naming(folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder in the order of their steps; files being written are not among them. OSError when it
    cannot be looked into, where a glob would find none."""
    try:
        paths = list(folder.iterdir())
    except FileNotFoundError:
        return []
    return sorted(path for path in paths if fnmatch(path.name, "step-*.pt") and path.stem[5:].isdecimal())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state in `path`, on the CPU. Raises CheckpointError when it is missing, damaged or not a checkpoint of ours."""
    try:
        content = io.BytesIO(path.read_bytes())  # once, whatever the checks look at
        with zipfile.ZipFile(content) as archive:
            damaged = archive.testzip()
        if damaged:
            raise CheckpointError(f"checkpoint {path} is damaged: the checksum of {damaged} does not match")
        content.seek(0)
        state = torch.load(content, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {path} does not exist") from None
    except CheckpointError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"checkpoint {path} cannot be read: {reason}") from None
    if not isinstance(state, dict) or state.get("format") not in (FORMAT, _FIRST_FORMAT):
        raise CheckpointError(f"{path} is not a checkpoint of this project's training ({FORMAT})")
    return _from_first_format(state) if state["format"] == _FIRST_FORMAT else state


def _from_first_format(state: dict[str, Any]) -> dict[str, Any]:
    """The first format kept the run's progress beside its parts instead of as one of them."""
    progress = {name: state.pop(name) for name in ("step", "samples_seen", "best_top1", "seconds")}
    return state | {"format": FORMAT, "progress": progress, "recent": {"means": state["recent"]}}


def load_newest(folder: Path) -> tuple[Path, dict[str, Any], list[str]] | None:
    """The newest complete checkpoint of `folder`: its path, its state, and a line for each newer one that is damaged.

    None when there is no checkpoint at all. Raises CheckpointError when there are some and none can be read.
    """
    refused: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        try:
            return path, load_checkpoint(path), refused
        except CheckpointError as error:
            refused.append(str(error))
    if refused:
        raise CheckpointError(f"no checkpoint of {folder} can be read; the newest: {refused[0]}")
    return None
