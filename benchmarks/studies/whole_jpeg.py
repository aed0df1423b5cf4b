"""The decoders of whole JPEGs beside each other, on the same photographs and one thread: CPU time, and whether the pixels
are equal.

    python benchmarks/studies/whole_jpeg.py

torchvision's public function stands beside its operator, which native uses: the function warns of its end at every call.
"""

import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
import torch
import torchvision.io
from torch import Tensor

from benchmarks.measuring import Window, alternate
from benchmarks.measuring.photos import jpeg
from benchmarks.reporting import Result, Study
from pipelines.decoding.whole_jpeg import usable
from pipelines.tools.parity import photos

PUBLIC = "torchvision, its public function"

study = Study("whole_jpeg", __doc__, images=64, quality=90, windows=25)


@study
def main(options: Any, result: Result) -> None:
    torch.set_num_threads(1)
    files = [jpeg(np.asarray(photo), quality=options.quality) for photo in photos(options.images)]
    encoded = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
    decoders: dict[str, Any] = {decoder.name: decoder.decode for decoder in usable()}
    first = next(iter(decoders))
    expected = [decoders[first](image) for image in encoded]
    for name, decode in decoders.items():
        equal = sum(torch.equal(decode(image), pixels) for image, pixels in zip(encoded, expected))
        result.add({"what": name}, f"images equal to {first}'s, of {len(encoded)}", equal)
    if "torchvision" in decoders:
        decoders[PUBLIC] = partial(torchvision.io.decode_jpeg, mode=torchvision.io.ImageReadMode.RGB)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # announced once is enough, and what is measured is what users have
        subjects = {name: partial(_pass, decode, encoded) for name, decode in decoders.items()}
        measured = alternate(subjects, windows=options.windows, tolerant=False)
    for name, measurement in measured.items():
        milliseconds = [1000 / rate for rate in measurement.rates]
        result.add({"what": name}, "ms of CPU time an image", milliseconds, higher_is_better=False)
        if name != first:
            result.add({"what": f"{first} over {name}"}, "times as fast", measured[first].over(measurement))
    result.note(f"{len(encoded)} photographs of 300 to 500 pixels a side, quality {options.quality}, one thread.")


def _pass(decode: Callable[[Tensor], Tensor], encoded: Sequence[Tensor]) -> Window:
    """One pass over the images; its seconds are of CPU time, which other work on the machine hardly changes."""
    started = time.process_time()
    for image in encoded:
        decode(image)
    return Window(len(encoded), time.process_time() - started)


if __name__ == "__main__":
    study.start()
