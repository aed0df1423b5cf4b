"""What every rank of a scaling measurement runs, under torchrun or srun; started by scaling.py and slurm/throughput.sbatch.

Times the step with and without the gradients' exchange at the batches given, and all-reduces of several sizes; the first
rank writes a JSON file.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
import torch.distributed as dist

from benchmarks.measuring.command_line import Parser
from benchmarks.measuring.measure import alternate
from benchmarks.measuring.summaries import summarise
from benchmarks.measuring.workload import Workload
from engine.config.options import StrategyConfig
from engine.distributed.communicator import Communicator
from engine.distributed.strategies import join
from engine.faults.exit_status import DONE, run_entry_point
from launch.environment import detect

SIZES = (4 * 2**10, 2**20, 16 * 2**20)


def main(arguments: Sequence[str]) -> int:
    defaults = {"network": "debug", "precision": "auto", "resolution": 0, "windows": 5, "seconds": 1.0}
    parser = Parser("One rank's part of a scaling measurement.", **defaults)
    parser.add_argument("--batches", type=int, nargs="+", required=True, help="images a rank, one after the other")
    parser.add_argument("--threads", type=int, required=True, help="of the CPU, for this rank")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file")
    options = parser.parse_args(arguments)
    communicator = join(detect(), StrategyConfig(name="ddp"))
    torch.set_num_threads(options.threads)  # a rank is as large alone as beside others
    steps = {batch: _time_steps(batch, options, communicator) for batch in options.batches}
    exchanges = _time_all_reduce(communicator, options.seconds)
    found = {"ranks": communicator.world_size, "steps": steps, "all_reduce": exchanges}
    if communicator.is_main:
        options.output.write_text(json.dumps(found))
    communicator.close()
    return DONE


def _time_steps(batch: int, options: Any, communicator: Communicator) -> dict[str, Any]:
    settings = {
        "network.name": options.network, "data.batch_size": batch, "precision": options.precision,
        "data.resolution": options.resolution,
    }  # fmt: skip
    workload = Workload.synthetic(settings, communicator)
    steps = workload.steps_in(options.seconds)
    subjects = {"step": workload.timed_step(steps), "alone": workload.timed_step(steps, exchange=False)}
    measured = alternate(subjects, windows=options.windows, tolerant=False)
    alone = summarise(measured["alone"].step_seconds)
    workload.close()
    return {
        "rates": measured["step"].rates,
        "step_seconds": workload.images / measured["step"].rate.median,
        # Compute is what ranks do beside each other: the mean over them, and how much their steps vary.
        "alone_seconds": fmean(communicator.gather(alone.median)),
        "jitter": fmean(communicator.gather((alone.p95 - alone.median) / (1.645 * alone.median))),
        "gradients": sum(4 * p.numel() for p in workload.network.parameters() if p.requires_grad),
    }


def _time_all_reduce(communicator: Communicator, seconds: float) -> list[tuple[int, float]]:
    """(bytes, median seconds) of all-reduces, on the slowest rank."""
    found = []
    for size in SIZES if communicator.world_size > 1 else ():
        values = torch.ones(size // 4, device=communicator.device)
        durations: list[float] = []
        for _ in range(max(5, min(50, int(seconds * 2**24 / size) * 10))):
            communicator.barrier()
            started = time.perf_counter()
            dist.all_reduce(values)
            if communicator.device.type == "cuda":
                torch.cuda.synchronize()
            durations.append(time.perf_counter() - started)
        found.append((size, max(communicator.gather(summarise(durations[2:]).median))))
    return found


if __name__ == "__main__":
    run_entry_point(main)
