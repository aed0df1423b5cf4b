"""Trainings of seconds, each forked from this process, in each of which one operation on a file fails.

    LD_PRELOAD=file_faults.so python -m faulty_runs FOLDER TRIALS

A training of two short epochs, with checkpoints, evaluations, best weights, metrics and report, opens, reads, writes, renames,
flushes, makes and removes files some hundred times: of its dataset and index, the run directory and the cache. In each trial
one of these fails, once, with EIO, ENOSPC, ESTALE or EACCES; half of the runs start afresh, half go on from the middle. Each
must end as a quiet one to the last bit, or with one line that names file and cause, after which the same command completes so.

Prints a JSON object a line: first what a quiet run is like, then each trial. Importing is most of what such a training takes;
this process imports all that a run does before it forks, and counts what lies below FOLDER alone.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import importlib
import itertools
import json
import mmap
import os
import shutil
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

import tars
from engine import Hook
from engine.config.options import ScheduleConfig
from engine.runs.checkpoint_file import list_checkpoints, load_checkpoint
from engine.runs.metrics_file import MetricsFile
from engine.train import command
from engine.training.improvement import Improvement
from inception.weights.files import read_safetensors
from pipelines import sample_path

CAUSES = (errno.EIO, errno.ENOSPC, errno.ESTALE, errno.EACCES)
FRESH, RESUMED = "afresh", "half way"
UNHARMED, RESTARTED = "ended as the quiet one", "ended with one line; the same command then completed as the quiet one"
# A run takes seconds; one that is not through by then hangs [seconds].
LIMIT = 600.0
_IMAGES = {"train": 24, "val": 10}
_HALF_WAY = 4  # of six steps
_OPTIONS = {
    "network.name": "debug", "network.width": 0.25, "precision": "fp32", "schedule.epochs": 2, "data.global_batch_size": 8,
    "data.batch_size": 8, "data.resolution": 16, "data.workers": 1, "optimizer.lr": 0.02, "ema.decay": 0.9,
    "monitor.every_steps": 1, "checkpoint.every_seconds": 0,
}  # fmt: skip


@dataclass
class Ended:
    """status: of the process, None when it hung; operations: how many it made; failed: the one that failed, and on what."""

    status: int | None
    operations: int
    failed: str
    stdout: str
    stderr: str


@dataclass
class Trial:
    """What came of failing one operation: `outcome` is UNHARMED, RESTARTED, or what was wrong."""

    start: str
    operation: int
    cause: str
    failed: str
    outcome: str
    said: str


class StopHalfWay(Hook):
    """Has a run stop in the middle of its second epoch, for others to go on from."""

    def on_step(self, run: Any) -> None:
        run.stop.requested = run.progress.step == _HALF_WAY


def main(folder: Path, trials: int) -> None:
    """As many trials, by turns of runs that start afresh and that go on from the middle, over all operations evenly."""
    for split, count in _IMAGES.items():
        tars.unpack(Path(sample_path()) / f"{split}-000.tar", folder / "data" / split, count)
    modules = folder.parent / "modules.json"
    _run(folder, _place(folder, FRESH), modules=modules)  # fills the cache as well
    for name in json.loads(modules.read_text()):
        with suppress(Exception):
            importlib.import_module(name)
    half = folder / "half"
    shutil.rmtree(folder / FRESH)
    _run(folder, _place(folder, FRESH), options={"hooks": f"{__spec__.name}:{StopHalfWay.__name__}"})
    (folder / FRESH / "run").rename(half)
    shutil.rmtree(folder / FRESH)
    quiet, counts = None, {}
    for start in (FRESH, RESUMED, FRESH):
        left, counts[start] = _quiet(folder, start)
        if quiet is not None and (difference := _difference(left, quiet)):
            raise SystemExit(f"two quiet runs differ: {difference}")
        quiet = left
    assert quiet is not None
    print(json.dumps({"operations": counts}), flush=True)
    for number, (start, operation) in enumerate(_chosen(counts, trials)):
        found = _trial(folder, start, operation, CAUSES[number // 2 % len(CAUSES)], quiet)
        print(json.dumps(asdict(found)), flush=True)


def _chosen(counts: dict[str, int], trials: int) -> Iterator[tuple[str, int]]:
    """Which operations fail, by how the run starts."""
    for number in range(trials):
        start = (FRESH, RESUMED)[number % 2]
        yield start, 1 + (number // 2) * counts[start] // -(-trials // 2)


def _quiet(folder: Path, start: str) -> tuple[dict[str, Any], int]:
    """What a run leaves behind in which nothing fails, and how many operations it makes."""
    place = _place(folder, start)
    ended = _run(folder, place)
    if ended.status != 0:
        raise SystemExit(f"the quiet run ended with {ended.status}: {ended.stderr}")
    found = _left_behind(place / "run")
    shutil.rmtree(place)
    return found, ended.operations


def _trial(folder: Path, start: str, operation: int, cause: int, quiet: dict[str, Any]) -> Trial:
    place = _place(folder, start)
    ended = _run(folder, place, operation, cause)
    said = ended.stderr.strip()
    outcome = _judged(folder, place, ended, cause, quiet)
    if outcome in (UNHARMED, RESTARTED):
        shutil.rmtree(place)
    else:
        place.rename(folder / f"failed-{start}-{operation}-{errno.errorcode[cause]}")
        said = f"{said}\n--- stdout ---\n{ended.stdout}"
    failed = ended.failed.replace(f"{place}/", "")
    return Trial(start, operation, errno.errorcode[cause], failed, outcome, said.replace(f"{place}/", ""))


def _judged(folder: Path, place: Path, ended: Ended, cause: int, quiet: dict[str, Any]) -> str:
    if ended.status is None:
        return "it hung"
    if "Traceback" in ended.stderr + ended.stdout:
        return "a traceback"
    if ended.status == 0:
        difference = _difference(_left_behind(place / "run"), quiet)
        if not difference or (difference.startswith("files") and os.strerror(cause) in ended.stdout + ended.stderr):
            return UNHARMED
        return f"a silent difference: {difference}"
    lines = ended.stderr.splitlines()
    if len(lines) != 1 or not lines[0].startswith("error: "):
        return f"status {ended.status} with {len(lines)} lines"
    if os.strerror(cause) not in lines[0] or str(folder) not in lines[0]:
        return "its line does not name file and cause"
    restarted = _run(folder, place)
    if restarted.status != 0:
        return f"the restart ended with {restarted.status}: {restarted.stderr}"
    difference = _difference(_left_behind(place / "run"), quiet)
    return f"the restart ended otherwise: {difference}" if difference else RESTARTED


def _place(folder: Path, start: str) -> Path:
    """A folder with a copy of the dataset that has no index yet, and of the run to go on with."""
    place = folder / start
    shutil.copytree(folder / "data", place / "data")
    if start == RESUMED:
        shutil.copytree(folder / "half", place / "run")
    return place


def _run(
    folder: Path, place: Path, operation: int = 0, cause: int = 0, modules: Path | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Ended:  # fmt: skip
    """A training in `place` in a process of its own, whose `operation`-th fails with `cause`. `modules`: a file for the names
    of all that it imported."""
    options = {"data.path": place / "data", "run.dir": place / "run", **_OPTIONS, **options}
    arguments = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    said = {name: folder.parent / name for name in ("stdout", "stderr")}
    with mmap.mmap(-1, mmap.PAGESIZE) as memory:
        sys.stdout.flush()
        process = os.fork()
        if process == 0:
            _become_run(folder, arguments, operation, cause, memory, said, modules)
        status = _status(process)
        count, failed = struct.unpack("l4088s", memory[:4096])
    words = (path.read_text(errors="replace") for path in said.values())
    return Ended(status, count, os.fsdecode(failed.partition(b"\0")[0]), *words)


def _become_run(
    folder: Path, arguments: list[str], operation: int, cause: int, memory: mmap.mmap, said: dict[str, Path],
    modules: Path | None,
) -> None:  # fmt: skip
    for number, path in enumerate(said.values(), 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    sys.argv = ["engine/train.py", *arguments]
    if modules is not None:
        leave = os._exit

        def tell(status: int) -> None:
            modules.write_text(json.dumps([name for name in sys.modules if name != "__main__"]))
            leave(status)

        os._exit = tell  # type: ignore[assignment]
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    ctypes.CDLL(None).faults_watch(
        os.fsencode(folder), ctypes.c_long(operation), ctypes.c_int(cause), ctypes.c_void_p(address)
    )
    command()


def _status(process: int) -> int | None:
    """How a child ended; one that hangs is ended, and None."""
    give_up = time.monotonic() + LIMIT
    while time.monotonic() < give_up:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(process, 9)
    os.waitpid(process, 0)
    return None


def _left_behind(run: Path) -> dict[str, Any]:
    """What a finished run computed, times left out, and which files it wrote."""
    state = load_checkpoint(list_checkpoints(run / "checkpoints")[-1])
    del state["progress"]["seconds"], state["config"]
    evaluations = {
        row["step"]: row["top1"] for row in MetricsFile(run / "metrics.jsonl").rows() if row["kind"] == "eval"
    }
    improvement = Improvement(ScheduleConfig())
    improvement.load_state_dict(state["improvement"])
    improvement.catch_up(evaluations)  # as a start does: one written again, later than in a quiet run, has counted them
    state["improvement"] = improvement.state_dict()
    keys = ("kind", "step", "epoch", "samples", "loss", "top1", "top5", "lr", "gradient_norm", "count", "best_top1")
    rows = [row for row in MetricsFile(run / "metrics.jsonl").rows() if row["kind"] != "event"]
    best = read_safetensors(run / "checkpoints" / "best.safetensors")
    files = {path.relative_to(run) for path in run.rglob("*") if path.is_file() and "lock" not in path.name}
    # An empty file of stacks that could not be removed is in nobody's way.
    files = {path for path in files if path.parent.name != "stacks" or (run / path).stat().st_size}
    return {
        "state": dict(_digests(state, "state")),
        "best weights": dict(_digests(best.state, "best")),
        "rows": [{key: row[key] for key in keys if key in row} for row in rows],
        "files": sorted({str(path.parent if "tensorboard" in path.parts else path) for path in files}),
    }


def _digests(tree: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _digests(value, f"{name}.{key}")
    elif isinstance(tree, torch.Tensor):
        yield name, hashlib.sha256(tree.contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
    else:
        yield name, repr(tree)


def _difference(found: dict[str, Any], quiet: dict[str, Any]) -> str:
    """The first part in which what a run left behind differs, and how; empty when all is alike."""
    for part, expected in quiet.items():
        if found[part] == expected:
            continue
        if isinstance(expected, dict):
            names = expected.keys() | found[part].keys()
            return f"{part}: {sorted(name for name in names if expected.get(name) != found[part].get(name))[:3]}"
        pairs = itertools.zip_longest(found[part], expected)
        return f"{part}: {next(f'{ours}, not {theirs}' for ours, theirs in pairs if ours != theirs)}"
    return ""


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
