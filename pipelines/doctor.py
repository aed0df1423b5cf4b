"""Check a dataset: decode every image once and report what training would stumble over.

    python pipelines/doctor.py DIR [--quarantine FILE] [--json FILE] [--page FILE]
    mpirun -n 16 python pipelines/doctor.py DIR

Training leaves out what the quarantine list names: `engine/train.py --data.path DIR --data.quarantine FILE`.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

# The repository root instead of this script's own folder: modules are found as pipelines.*, from any working directory.
_here = Path(__file__).resolve().parent
sys.path[:] = [str(_here.parent), *(entry for entry in sys.path if Path(entry).resolve() != _here)]

from pipelines.checking.dataset_check import check_up, in_a_line
from pipelines.checking.page import to_page
from pipelines.checking.text import KINDS, UNUSABLE, kind_name, to_json, to_quarantine, to_text, write_text
from pipelines.datasets.location import add_location, location_of
from pipelines.support.cores import usable_cores
from pipelines.support.entry_point import DONE, Parser, run_entry_point
from pipelines.support.errors import DataError, nearest
from pipelines.support.work_sharing import Processes, Ranks


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    usual = ",".join(kind_name(condition) for condition in UNUSABLE)
    parser = Parser(prog="pipelines/doctor.py", description="Check a dataset. Nothing in it is changed.")
    parser.add_argument(
        "path", nargs="?", default="", metavar="DIR", help="holds class folders, tar shards, lists, ..."
    )
    add_location(parser)
    parser.add_argument("--split", choices=["train", "val"], help="check only this split (default: both)")
    parser.add_argument("--quarantine", type=_path, metavar="FILE", help="write the list of images to leave out")
    parser.add_argument(
        "--quarantine-kinds", type=_kinds, default=_kinds(usual), metavar="KIND,...",
        help=f"what goes on the list (default: {usual}); of {', '.join(KINDS)}",
    )  # fmt: skip
    parser.add_argument("--json", type=_path, metavar="FILE", help="write everything that was found")
    parser.add_argument("--page", type=_path, metavar="FILE", help="write an HTML page with pictures")
    parser.add_argument(
        "--smallest", type=int, default=32, metavar="PIXELS", help="smaller images are tiny (default: 32)"
    )
    parser.add_argument(
        "--workers", type=_workers, metavar="N", help="processes (default: the cores; not under mpirun)"
    )
    return parser.parse_args(arguments)


def _path(text: str) -> Path:
    return Path(os.path.realpath(Path(text).expanduser()))  # of links in a circle, pathlib raises an error


def _workers(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return int(text)


def _kinds(text: str) -> list[str]:
    kinds = text.split(",")
    for kind in kinds:
        if kind not in KINDS:
            raise argparse.ArgumentTypeError(
                f"unknown kind {kind!r}{nearest(kind, KINDS)}; choose from {', '.join(KINDS)}"
            )
    return kinds


def main(arguments: Sequence[str], ranks: Ranks | None) -> int:
    """Check, and report."""
    options = parse(arguments)
    if ranks is not None and options.workers:
        raise DataError("--workers is for one process; under mpirun there is one worker a rank")
    location = location_of(options)
    found = location.splits()
    if options.split and options.split not in found:
        raise DataError(f"{location} holds no {options.split} split, only {' and '.join(found)}")
    splits = [options.split] if options.split else found
    for file in (options.quarantine, options.json, options.page):
        if file is not None and file.is_dir():
            raise DataError(f"{file} is a directory; give a file to write")
    team = ranks or Processes(options.workers or usable_cores())
    started = time.monotonic()
    checkup = check_up(location, splits, options.smallest, team)
    seconds = time.monotonic() - started
    print(to_text(checkup))
    count = sum(len(split.records) for split in checkup.splits.values())
    print(f"checked {count:,} images in {seconds:.1f} s, {count / seconds:,.0f} images/s")
    if options.json is not None:
        write_text(options.json, json.dumps(to_json(checkup), indent=1) + "\n")
    if options.page is not None:
        write_text(options.page, to_page(checkup))
    if options.quarantine is not None:
        # Training leaves images out; evaluation counts each image, so what is bad in val is to be repaired there.
        split = next(iter(checkup.splits))
        text, named = to_quarantine(checkup, split, options.quarantine_kinds)
        write_text(options.quarantine, text)
        print(f"{options.quarantine}: {named:,} images of {split} to leave out")
    if checkup.not_examined:
        raise DataError(in_a_line(checkup.not_examined))
    return DONE


def command() -> NoReturn:
    """Runs the program on the command line and ends the process."""
    run_entry_point(main)


if __name__ == "__main__":
    command()
