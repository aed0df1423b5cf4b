"""What test_resize_kernel.py judges, computed in a process of its own, since Triton decides when it is imported whether its
kernels are interpreted: python resize_driver.py cpu|gpu kernel|for-sm90 prints one JSON object.

On a CPU the environment must have TRITON_INTERPRET=1, but for "for-sm90", which compiles and runs nothing.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))

import numpy as np
import torch

from interpreting import stay_patched
from pipelines.datasets import y4m
from pipelines.decoding import fast_decode, resize_kernel
from pipelines.decoding.decode import empty_images
from pipelines.decoding.staging import Staging

DEVICE = torch.device("cuda" if sys.argv[1] == "gpu" else "cpu")
CHROMA = {"420jpeg": (2, 2), "422": (2, 1), "444": (1, 1), "mono": (0, 0)}
SIZES = ((19, 16), (14, 17), (5, 3), (4, 4), (2, 7), (1, 13), (13, 1), (1, 1))
SQUARES = {14: SIZES, 5: (SIZES[0], SIZES[4])}  # what is made, of which pictures: an interpreter is slow


def box_of(kind: int, width: int, height: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """The whole picture, a part at its first corner, one at its last, or one anywhere."""
    across, down = -(-width // 2), -(-height // 3)
    left, top = int(generator.integers(width)), int(generator.integers(height))
    drawn = (left, top, int(generator.integers(1, width - left + 1)), int(generator.integers(1, height - top + 1)))
    return ((0, 0, width, height), (0, 0, across, down), (width - across, height - down, across, down), drawn)[kind]


def kernel() -> dict[str, list[float]]:
    """For each sampling and side of the squares, by how much they differ from the compiled decoder's: the most levels, and dB."""
    found = {}
    for chroma in CHROMA:
        generator = np.random.default_rng(len(chroma))
        for side, sizes in SQUARES.items():
            cases = []
            for number, size in enumerate(sizes):
                whole = side + generator.integers(0, side, 2, endpoint=True) * generator.integers(2)
                offset = [int(generator.integers(length - side + 1)) for length in whole]
                cases.append((size, box_of(number % 4, *size, generator), (*whole, *offset)))
            found[f"{chroma} to {side}"] = differences(chroma, side, cases, generator)
    found["a large reduction"] = differences(
        "420jpeg", 2, [((17, 15), (0, 0, 17, 15), (2, 2, 0, 0))], generator, (0, 0)
    )
    found["several tiles"] = differences("420jpeg", 33, [((27, 21), (3, 5, 20, 15), (38, 43, 2, 9))], generator, (1, 0))
    return found


def differences(
    chroma: str, side: int, cases: list[tuple], generator: np.random.Generator, how: tuple[int, int] | None = None
) -> list[float]:
    """Of a picture of noise or of smooth colours a case, given by size, box and view: the most levels, and the least dB. how:
    mirrored or not, bicubic or not (none: drawn)."""
    compiled, why = fast_decode.library()
    assert compiled is not None, why
    items, files = np.zeros(len(cases), fast_decode.ITEM), []
    for item, (size, box, view) in zip(items, cases):
        count = y4m.Picture(*size, *CHROMA[chroma], 0).size
        smooth = np.linspace(0, 255, count).astype(np.uint8)
        pixels = generator.integers(0, 256, count, np.uint8) if generator.integers(2) else smooth
        files.append(np.frombuffer(y4m.header_of(*size, *CHROMA[chroma]) + pixels.tobytes(), np.uint8))
        item["bytes"], item["size"] = files[-1].ctypes.data, len(files[-1])
        item["left"], item["top"], item["width"], item["height"] = box
        item["across"], item["down"], item["x"], item["y"] = view
    items["planes"] = items["orientation"] = 1
    items["flip"], items["bicubic"] = how or generator.integers(0, 2, (2, len(items)))
    staging = Staging(compiled, items, np.array([size for size, _, _ in cases]), side)
    wanted, made = empty_images(len(items), side), empty_images(len(items), side).to(DEVICE)
    assert staging.read(items).all()
    assert fast_decode.carry_out_items(compiled, items, wanted).all()
    resize_kernel.resize(staging.buffer.to(DEVICE), made)
    off = (made.cpu().double() - wanted.double()).abs()
    worst = off.square().mean(dim=(1, 2, 3)).max().item()  # of an image
    return [off.max().item(), 10 * np.log10(255**2 / max(worst, 1e-9))]


def compiled_for_hopper() -> dict[str, int]:
    """Bytes of the kernel's machine code, compiled for compute capability 9.0."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = {"FIELDS": 16, "UNIT": 16, "ROWS": resize_kernel._ROWS, "COLUMNS": resize_kernel._COLUMNS}
    types = {"staged": "*u8", "table": "*i32", "out": "*u8", "side": "i32"} | dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=resize_kernel.resize_kernel, signature=types, constexprs=constants)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    return {"bytes": len(made.asm["cubin"])}


if os.environ.get("TRITON_INTERPRET") == "1":
    stay_patched()
print(json.dumps({"kernel": kernel, "for-sm90": compiled_for_hopper}[sys.argv[2]]()))
