"""ONNX files whose weights and activations are int8, by onnxruntime, and what that costs in accuracy."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.inference.exported_files import Function, nodes_before_convolutions, silent


class Calibration:
    """Hands images to onnxruntime's calibration, which measures the range of every activation on them.

    images: batches as the graph takes them.
    """

    def __init__(self, images: Iterator[Tensor]):
        self._images = images

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch by the name of the input, None after the last."""
        batch = next(self._images, None)
        return None if batch is None else {"images": batch.contiguous().numpy()}

    def __iter__(self) -> Iterator[Any]:
        return iter(self.get_next, None)


def quantise(exact: Path, file: Path, images: Iterator[Tensor]) -> None:
    """Writes the ONNX file `exact` to `file` with int8 weights, a scale for each channel, and uint8 activations whose ranges are
    those on `images`. Weights use 7 bits: sums of products overflow on processors without VNNI otherwise. What comes before the
    first convolution, normalisation, stays as it is."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with silent():
        quantize_static(
            exact,
            file,
            Calibration(images),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            nodes_to_exclude=nodes_before_convolutions(exact),
        )


def right_answers(runs: dict[str, Function], batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[dict[str, int], int]:
    """How many of the labels in `batches` (images, labels) each function guesses first, by its name, and how many there are."""
    right, count = dict.fromkeys(runs, 0), 0
    for images, labels in batches:
        count += len(labels)
        for name, run in runs.items():
            right[name] += int((torch.as_tensor(run(images)).argmax(1) == labels).sum())
    return right, count
