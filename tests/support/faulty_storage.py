"""Opens, trains on, checks and prepares a dataset while system calls fail at one place after the other; prints a line for each
end that is neither right nor one line with a path and a cause. To be run with faults.c preloaded: PLACE WORK COUNT FIRST STEP."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pipelines.datasets.files
import pipelines.doctor
import pipelines.prepare
from engine.config.options import DataConfig
from engine.training.loaders import open_splits
from pipelines import DataError, TrainPlan, build_loader, open_dataset

NUMBERS = (errno.ENOSPC, errno.EACCES, errno.ESTALE, errno.ELOOP, errno.EROFS, errno.EIO)
FOR_EVER = 1_000_000
pipelines.datasets.files._PAUSES = (0.0, 0.0, 0.0)


def opened(place: Path, work: Path, count: int) -> str:
    found = len(open_dataset(place, "train", progress=True))
    return "" if found == count else f"{found} images"


def trained(place: Path, work: Path, count: int) -> str:
    """As training reads an epoch, with every command's remarks on standard output."""
    with redirect_stdout(StringIO()):
        dataset, _ = open_splits(DataConfig(path=str(place)), progress=True)
    plan = TrainPlan(len(dataset), 6)
    with build_loader(dataset, plan, "native", "cpu", batch_size=6, resolution=16, workers=1) as loader:
        found = sum(len(batch.labels) for batch in loader)
    return "" if found == count else f"{found} images"


def examined(place: Path, work: Path, count: int) -> str:
    report = StringIO()
    with redirect_stdout(report):
        pipelines.doctor.main([str(place), "--split", "train", "--workers", "1"], None)
    return "" if f"train: {count} images" in report.getvalue() else report.getvalue()


def prepared(place: Path, work: Path, count: int) -> str:
    report = StringIO()
    with redirect_stdout(report):
        arguments = ["folder", str(place), "--to", "shards", "--output", str(work / "out"), "--workers", "1"]
        pipelines.prepare.main(arguments, None)
    return "" if f"{count} train" in report.getvalue() else report.getvalue()


def end_of(tool: Callable[[Path, Path, int], str], place: Path, work: Path, count: int, number: int) -> str:
    """What is wrong with how a tool ended; empty when nothing is."""
    try:
        with redirect_stderr(StringIO()):
            return tool(place, work, count)
    except DataError as error:
        said = str(error)
    except OSError as error:  # the entry point makes it one line
        said = f"{error.strerror}: {error.filename}" if error.strerror else str(error)
    except BaseException:
        return traceback.format_exc()
    named = str(place.parent) in said
    # What fails to be made is asked for by pathlib whether it is a folder, and that may fail instead.
    why = any(words in said for words in (os.strerror(number), "it changed while in use", "File exists"))
    return "" if named and why and "\n" not in said else f"it said: {said}"


def main() -> None:
    place, work = Path(sys.argv[1]), Path(sys.argv[2])
    count, first, step = map(int, sys.argv[3:])
    faults = ctypes.CDLL(None)
    for tool in (opened, trained, examined, prepared):
        for number in NUMBERS:
            for times in (1, FOR_EVER):
                after = first
                while True:
                    shutil.rmtree(place / ".index", ignore_errors=True)
                    shutil.rmtree(work, ignore_errors=True)
                    work.mkdir()
                    faults.fault_arm(os.fsencode(place.parent), number, after, times)
                    wrong = end_of(tool, place, work, count, number)
                    reached = faults.fault_left() < times
                    faults.fault_arm(b"", 0, 0, 0)
                    if wrong:
                        print(f"{tool.__name__}, {os.strerror(number)} x {times} after {after}: {wrong}", flush=True)
                    if not reached:
                        break
                    after += step
    print("done")


if __name__ == "__main__":
    main()
