"""A run's graphs compiled before its first step, so that no step or evaluation waits for the compiler later."""

import time

import numpy as np
import torch

from engine.graphs.compilation import RecompileWatch, compile_ahead
from engine.training.assembly import Run
from pipelines import Batch, Loader, TrainPlan


def compile_for_run(run: Run) -> RecompileWatch:
    """Compiles training and evaluation for every image size to come; returns the watch on what is compiled again."""
    started = time.monotonic()
    sizes = sorted(set(run.sizes[run.progress.epoch :])) if run.parallelism.can_discard else []
    run.monitor.say(f"compiling for images of {', '.join(map(str, sizes)) or 'each size as it comes'} pixels")
    run.network.train()
    counts, evaluator = run.batching.compiled_sizes, run.evaluator

    def compile_size(size: int) -> None:
        for count in counts:
            run.train_step.compile_for(_black(count, size, run.loader, run))

    compile_ahead(compile_size, run.network, sizes)
    run.network.eval()
    batch = _black(evaluator.batch_size, evaluator.loader.resolution, evaluator.loader, run)
    with torch.no_grad():
        evaluator.score(batch.images, batch.labels)
    seconds = time.monotonic() - started
    run.recorder.event("compiled", sizes=sizes, seconds=round(seconds, 1))
    run.monitor.say(f"compiled in {seconds:.0f} s")
    return RecompileWatch()


def report_recompiles(watch: RecompileWatch, run: Run) -> None:
    """Tells what was compiled again since the last call."""
    causes, watch.causes = watch.causes, []
    for cause in causes:
        run.recorder.event("recompiled", reason=cause)
    if causes:
        run.monitor.say(f"torch.compile had to compile {len(causes)} graphs again in this epoch: {causes[0]}")


def _black(count: int, size: int, loader: Loader, run: Run) -> Batch:
    """Black images with an augmentation as `loader` would give them."""
    device, indices = run.communicator.device, np.arange(count)
    images = torch.zeros(count, size, size, 3, dtype=torch.uint8, device=device).permute(0, 3, 1, 2)
    decided = loader.plan.augmentations(0, indices, size) if isinstance(loader.plan, TrainPlan) else {}
    augmentation = {name: torch.from_numpy(values).to(device) for name, values in decided.items()} or None
    labels = torch.zeros(count, dtype=torch.int64, device=device)
    return Batch(images, labels, torch.from_numpy(indices), augmentation)
