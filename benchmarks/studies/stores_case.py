"""One pass of the native loader over a prepared dataset, in a process of its own whose disk stores.py can make slower.

Prints a line of JSON: images, seconds, seconds of CPU time, and bytes read.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch

from pipelines import TrainPlan, build_loader, open_dataset

_AHEAD = 5  # batches that the loader makes before they count


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    for name in ("resolution", "batch-size", "workers"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--cold", action="store_true", help="drop the data from the page cache first")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    dataset = open_dataset(options.data, "train", progress=False)
    if options.cold:
        forget(options.data)
    plan = TrainPlan(len(dataset), options.batch_size, seed=1)
    images, began, used, read = 0, 0.0, 0.0, 0
    shape = {"batch_size": options.batch_size, "resolution": options.resolution, "workers": options.workers}
    with build_loader(dataset, plan, "native", **shape) as loader:
        for number, batch in enumerate(loader):
            if number >= _AHEAD:
                images += len(batch)
            else:
                began, used, read = time.perf_counter(), time.process_time(), bytes_read()
    found = {"images": images, "seconds": time.perf_counter() - began, "cpu": time.process_time() - used}
    print(json.dumps(found | {"bytes": bytes_read() - read}))


def forget(folder: Path) -> None:
    """Drop the shards of a dataset from the page cache (posix_fadvise(2)), which works once they are on the disk."""
    for path in folder.glob("*.tar"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def bytes_read() -> int:
    """Bytes that this process has read by now (proc(5), rchar)."""
    return int(Path("/proc/self/io").read_text().split()[1])


if __name__ == "__main__":
    main(sys.argv[1:])
