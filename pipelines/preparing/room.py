"""How much room and time a preparation will take: known where bytes are copied, else estimated from a few images."""

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from pipelines.preparing.catalogue import Catalogue, Inputs
from pipelines.preparing.pieces import Form, pieces_of
from pipelines.preparing.stores import JPEG
from pipelines.preparing.writers import BESIDE
from pipelines.support.errors import DataError

_TO_SPARE = 0.02  # of what is written, for headers and the file system itself
_TRIED = 48  # images of which room and time are estimated


def check_room(
    inputs: Inputs,
    form: Form,
    output: Path,
    catalogues: Mapping[str, Catalogue],
    workers: int,
    say: Callable[[str], None],
) -> None:
    """DataError when the output's disk has too little room for it; says beforehand what a store will take."""
    if form.store == JPEG and (form.longest_side is not None or form.quality is not None):
        return  # nobody knows beforehand how small the images get
    count, before = sum(map(len, catalogues.values())), sum(catalogue.bytes for catalogue in catalogues.values())
    larger, seconds = (1.0, 0.0) if form.store == JPEG else _tried(inputs, form, output, catalogues)
    need = before * larger * (1 + _TO_SPARE) + (0 if form.to == "folder" else count * BESIDE)
    if form.to == "beton":
        need *= 2  # shards first
    if form.store != JPEG:
        say(
            f"--store {form.store}: needs about {need / 1e6:,.1f} MB, images {larger:.2f} times as large as the input's, and "
            f"{_duration(seconds * count / workers)} on {workers} workers, judging by {min(count, _TRIED)} images"
        )
    free = shutil.disk_usage(output).free
    if need > free:
        raise DataError(
            f"too little room in {output}: {need / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free; "
            "make room and run the same command again, or use --longest-side or --quality"
        )


def _tried(inputs: Inputs, form: Form, output: Path, catalogues: Mapping[str, Catalogue]) -> tuple[float, float]:
    """How many times the input's bytes are written, and seconds for an image, of images from all over the splits."""
    total, before, after, tried = sum(map(len, catalogues.values())), 0, 0, 0
    started = time.monotonic()
    for split, catalogue in catalogues.items():
        share = max(_TRIED * len(catalogue) // total, 1)
        positions = np.unique(np.linspace(0, len(catalogue) - 1, share).astype(np.int64))
        for sample, stored in pieces_of(inputs, form, output, split).at(positions):
            before, after, tried = before + sample.size, after + len(stored.data), tried + 1
    return after / max(before, 1), (time.monotonic() - started) / tried


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{max(round(seconds / 60), 1)} min"
