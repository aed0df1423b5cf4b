"""Prepare a dataset: from ImageNet's archives or any dataset's folder to tar shards, class folders or FFCV's .beton.

    python pipelines/prepare.py imagenet --train ILSVRC2012_img_train.tar --val ILSVRC2012_img_val.tar --to shards --output DIR
    mpirun -n 16 python pipelines/prepare.py folder DIR --to shards --longest-side 512 --output DIR

Uses all cores, or all ranks under mpirun. A run that was interrupted goes on when started again. Inputs are only read.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

# The repository root instead of this script's own folder: modules are found as pipelines.*, from any working directory.
_here = Path(__file__).resolve().parent
sys.path[:] = [str(_here.parent), *(entry for entry in sys.path if Path(entry).resolve() != _here)]

from pipelines.datasets.location import add_location, location_of
from pipelines.preparing.catalogue import Inputs
from pipelines.preparing.output_directory import MANIFEST
from pipelines.preparing.pieces import Form
from pipelines.preparing.preparation import Prepared, prepare
from pipelines.preparing.stores import JPEG, STORES
from pipelines.support.cores import usable_cores
from pipelines.support.entry_point import DONE, Parser, run_entry_point
from pipelines.support.errors import DataError
from pipelines.support.work_sharing import Processes, Ranks

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="pipelines/prepare.py", description="Prepare a dataset for training. Inputs are only read.")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="imagenet|folder")
    imagenet = kinds.add_parser("imagenet", help="from the archives of ILSVRC 2012")
    imagenet.add_argument("--train", type=_path, metavar="TAR", help="ILSVRC2012_img_train.tar")
    imagenet.add_argument("--val", type=_path, metavar="TAR", help="ILSVRC2012_img_val.tar")
    labels = imagenet.add_mutually_exclusive_group()
    labels.add_argument("--devkit", dest="labels", type=_path, metavar="TAR", help="default: the one beside --val")
    labels.add_argument("--val-labels", dest="labels", type=_path, metavar="FILE", help="`image class` a line")
    folder = kinds.add_parser("folder", help="from class folders, tar shards, lists or .beton files")
    folder.add_argument(
        "path", nargs="?", default="", metavar="DIR", help="holds train/<class>/*.jpg, val/..., or train-*.tar, ..."
    )
    add_location(folder)
    for kind in (imagenet, folder):
        _add_options(kind)
    return parser.parse_args(arguments)


def _add_options(parser: argparse.ArgumentParser) -> None:
    default = Form("shards")
    parser.add_argument("--to", required=True, choices=["folder", "shards", "beton"], help="what to make")
    parser.add_argument("--output", required=True, type=_path, metavar="DIR", help="an empty or a new directory")
    parser.add_argument("--store", choices=STORES, default=JPEG, help="how images are kept (default: as they come)")
    parser.add_argument("--longest-side", type=_positive, metavar="PIXELS", help="shrink larger images to this")
    parser.add_argument("--quality", type=_quality, metavar="1..100", help="encode all images again, as JPEGs of this")
    parser.add_argument("--shard-size", type=_bytes, default=default.shard_size, metavar="BYTES", help="default: 256M")
    parser.add_argument(
        "--shuffle-seed",
        type=_seed,
        default=default.shuffle_seed,
        metavar="N|none",
        help="order of shards (default: 0)",
    )
    parser.add_argument(
        "--workers", type=_positive, metavar="N", help="processes (default: the cores; not under mpirun)"
    )


def _path(text: str) -> Path:
    return Path(os.path.realpath(Path(text).expanduser()))  # of links in a circle, pathlib raises an error


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return int(text)


def _quality(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"expected a JPEG quality from 1 to 100, got {text!r}")
    return int(text)


def _bytes(text: str) -> int:
    unit = text[-1:].upper() if text[-1:].isalpha() else ""
    number = text.removesuffix(text[-1:]) if unit else text
    if unit not in _UNITS or not number.isdecimal() or int(number) < 1:
        raise argparse.ArgumentTypeError(f"expected bytes such as 256M or 1G, got {text!r}")
    return int(number) * _UNITS[unit]


def _seed(text: str) -> int | None:
    if text == "none":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number or 'none', got {text!r}")
    return int(text)


def _inputs(options: argparse.Namespace) -> Inputs:
    if options.kind == "folder":
        return Inputs(location_of(options))
    if options.train is None and options.val is None:
        raise DataError("give --train ILSVRC2012_img_train.tar, --val ILSVRC2012_img_val.tar, or both")
    return Inputs(train=options.train, val=options.val, labels=options.labels)


def main(arguments: Sequence[str], ranks: Ranks | None) -> int:
    """Prepare, and say what was made."""
    options = parse(arguments)
    form = Form(
        options.to, options.longest_side, options.quality, options.shard_size, options.shuffle_seed, options.store
    )
    if ranks is not None and options.workers:
        raise DataError("--workers is for one process; under mpirun there is one worker a rank")
    team = ranks or Processes(options.workers or usable_cores())
    started = time.monotonic()
    prepared = prepare(_inputs(options), form, options.output, team, lambda line: print(line, flush=True))
    print(_summary(prepared, options, time.monotonic() - started))
    return DONE


def _summary(prepared: Prepared, options: argparse.Namespace, seconds: float) -> str:
    images = " and ".join(f"{count:,} {split}" for split, count in prepared.samples.items())
    size = f"{prepared.bytes / 1e9:.2f} GB" if prepared.bytes > 1e8 else f"{prepared.bytes / 1e6:.2f} MB"
    what = "was prepared already; its checksums are right" if prepared.already else "prepared and checked"
    lines = [f"{options.output}: {images} images, {size}, {what} in {seconds:.1f} s; see {MANIFEST}"]
    if prepared.kept:
        why = ", ".join(f"{count:,} {reason}" for reason, count in prepared.kept.items())
        lines.append(f"--store {options.store}: {sum(prepared.kept.values()):,} images stay as they are: {why}")
    if prepared.unreadable:
        more = f" and {len(prepared.unreadable) - 1} more" if len(prepared.unreadable) > 1 else ""
        doctor = f"copied as it is: python pipelines/doctor.py {options.output} --quarantine FILE"
        done = "left out" if options.to == "beton" else doctor
        lines.append(f"warning: no decoder can read {prepared.unreadable[0]}{more}; {done}")
    return "\n".join(lines)


def command() -> NoReturn:
    """Runs the program on the command line and ends the process."""
    run_entry_point(main)


if __name__ == "__main__":
    command()
