"""Peers as subjects that take turns with ours, after a check that they do the same work."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measuring import Subject, drained, one_line, repeated
from benchmarks.measuring.budget import Budget
from benchmarks.measuring.counting import counts
from benchmarks.measuring.photos import write_gradients
from benchmarks.measuring.workload import Workload
from benchmarks.peers.equal_work import differences, observe
from benchmarks.peers.loaders import LOADERS, DataJob
from benchmarks.peers.networks import SETTING, build_peer, peer_step
from benchmarks.reporting.results import Result
from inception import create_model
from pipelines.support.cores import usable_cores

_GRADIENTS = 192


def prepared_subject(
    what: str, row: dict[str, str], prepare: Callable[[], tuple[Subject, float]], budget: Budget, result: Result,
    must: bool = False,
) -> Subject | None:  # fmt: skip
    """The subject that `prepare` makes, with the seconds of its windows, where the budget has room for that and for a window
    as warm-up and one that counts. One that fails is a `row` that says why, unless it `must` be there."""
    result.say(f"preparing {what} ...")
    try:
        prepared = budget.prepared(what, prepare)
    except Exception as error:  # not installed, or broken on this machine
        if must:
            raise
        result.add_failure(row, "images/s", one_line(error))
        return None
    return prepared[0] if prepared and budget.admits(what, 2 * prepared[1], must) else None


def network_subject(source: str, mode: str, ours: Workload, seconds: float) -> Subject:
    """The step of another project's network of the same name, on the same images, eager or in a mode of torch.compile."""
    images, labels = ours.images_and_labels
    network = build_peer(source, ours.config.network.name)
    step = peer_step(network, images, labels, bf16=ours.bf16, compile_mode=None if mode == "eager" else mode)
    return repeated(step, len(labels), seconds=seconds, least=2, device=ours.device)


def compared_counts(source: str, ours: Workload) -> str:
    """How the other network is set up, and both networks' multiply-adds, counted the same way."""
    name = ours.config.network.name
    builders = partial(create_model, name, **ours.network.options), partial(build_peer, source, name)
    mine, theirs = (counts(build, 2, ours.resolution).macs / 1e9 for build in builders)
    equal = "equal work" if abs(theirs / mine - 1) < 0.01 else "NOT equal work"
    return f"{source}'s {name}: {SETTING}. Multiply-adds an image: ours {mine:.3f} G, {source} {theirs:.3f} G: {equal}."


def data_subject(
    name: str, ours: Workload, options: Any, work: Path, images: int, result: Result
) -> tuple[Subject, float]:
    """The loader of another project on the same files, and the seconds that so many images take it at most; one that does
    other work than asked is measured all the same, and the result says so. `work` is for files that it needs, until it has
    been measured."""
    data, batch = ours.config.data, ours.batching.batch_size

    def job(folder: Path, size: int) -> DataJob:
        place = work / folder.name / name
        place.mkdir(parents=True, exist_ok=True)
        return DataJob(
            folder, place, size, ours.resolution, options.workers or usable_cores(), data.crop_scale, data.crop_ratio,
            data.flip, options.quality,
        )  # fmt: skip

    check = job(write_gradients(work / "gradients", _GRADIENTS), min(batch, 64))
    started = time.perf_counter()
    found = differences(observe(LOADERS[name](check), _GRADIENTS), check)
    seconds = (time.perf_counter() - started) / _GRADIENTS
    setting = " ".join(str(LOADERS[name].__doc__).split())
    result.note(f"{name}: {setting} " + ("Equal work." if not found else f"NOT equal: {'; '.join(found)}."))
    measured = job(options.folder, batch)
    return drained(LOADERS[name](measured), ahead=measured.ahead, seconds=options.seconds), seconds * images
