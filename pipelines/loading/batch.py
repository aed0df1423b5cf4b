"""What every loader hands to the training loop: a batch of images, their labels, and which samples they are."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one rank.

    images: uint8 (n, 3, H, W), RGB 0..255, in channels_last memory format, on the loader's device.
    labels: int64 (n,) on the same device; -1 marks an evaluation sample that could not be read (its pixels are zero).
    indices: int64 (n,) on the host: the position of each sample in its dataset.
    augmentation: float32 tensors of n rows on the device, by name, as `Augmentation.parameters` describes them, for
    engine.graphs.device_augmentation to carry out; none when the plan has none.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    augmentation: dict[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.indices)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A host tensor on `device`; the host does not wait for a GPU to have it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def decoding_threads(count: int, device: torch.device) -> ThreadPoolExecutor:
    """A pool whose threads work for `device`: left to itself, each thread of every rank sets up the first GPU for itself."""
    return ThreadPoolExecutor(count, "decode", initializer=_use, initargs=(device,))


def _use(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(device)
