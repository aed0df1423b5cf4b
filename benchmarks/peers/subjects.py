"""Peers as subjects that take turns with ours, after a check that they do the same work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring.counting import count
from benchmarks.measuring.equal_work import differences, observe
from benchmarks.measuring.measure import Subject, drained, one_line, repeated
from benchmarks.measuring.photos import write_gradients
from benchmarks.measuring.workload import DISCARD, Workload
from benchmarks.peers import DataJob, data_peer
from benchmarks.peers import networks as network_peers
from benchmarks.reporting.results import Result
from inception import create_model
from pipelines.support.cores import usable_cores

_GRADIENTS = 192


def network_subjects(name: str, ours: Workload, options: Any, result: Result) -> dict[str, Subject]:
    """The steps of others that have this network, on the same images; eager and compiled as asked."""
    subjects: dict[str, Subject] = {}
    images, labels = ours.synthetic
    sources = [source for source in network_peers.peers_of(name) if source in options.peers]
    for source in sources:
        result.note(f"{source}'s {name}: {network_peers.SETTING}. {_compared_counts(source, name, ours)}")
        for mode in options.compile:
            network = network_peers.build_peer(source, name)
            step = network_peers.peer_step(
                network, images, labels, bf16=ours.bf16, compile_mode=None if mode == "eager" else mode
            )
            setting = f"{'bf16' if ours.bf16 else 'fp32'}, {mode}, batch {len(labels)}"
            key = f"step | {source} | {setting}"
            subjects[key] = repeated(step, len(labels), seconds=options.seconds, least=2, device=ours.device)
    if not network_peers.peers_of(name):
        result.note(f"Neither torchvision nor timm has a network named {name}.")
    return subjects


def _compared_counts(source: str, name: str, ours: Workload) -> str:
    """A sentence about both networks' multiply-adds, counted the same way."""
    shape = (2, 3, ours.resolution, ours.resolution)
    with torch.device("meta"):
        networks = create_model(name, **ours.network.options), network_peers.build_peer(source, name)
    mine, theirs = (sum(b.macs for b in count(n.train(), shape) if not b.auxiliary) / 2e9 for n in networks)
    equal = "equal work" if abs(theirs / mine - 1) < 0.01 else "NOT equal work"
    return f"Multiply-adds an image: ours {mine:.3f} G, {source} {theirs:.3f} G: {equal}."


def data_subjects(ours: Workload, options: Any, work: Path, result: Result) -> dict[str, Subject]:
    """The loaders of others on the same files; one that does other work than asked is measured all the same and named.
    `work` is for files that they need, until they have been measured."""
    subjects: dict[str, Subject] = {}
    workers = options.workers or usable_cores()
    gradients = write_gradients(work / "gradients", _GRADIENTS)
    data = ours.config.data
    for name in options.peers:
        jobs = [
            DataJob(
                folder, _made(work / folder.name / name), min(size, 64), ours.resolution, workers,
                data.crop_scale, data.crop_ratio, data.flip, options.quality,
            )
            for folder, size in ((gradients, ours.batching.batch_size), (options.folder, ours.batching.batch_size))
        ]  # fmt: skip
        key = f"data | {name} | {workers} workers, batch {jobs[1].batch_size}"
        try:
            peer = data_peer(name)
            found = differences(observe(peer.passes(jobs[0]), _GRADIENTS), jobs[0])
            result.note(
                f"{name}: {peer.SETTING}. " + ("Equal work." if not found else f"NOT equal: {'; '.join(found)}.")
            )
            subjects[key] = drained(peer.passes(jobs[1]), discard=DISCARD, seconds=options.seconds)
        except Exception as error:  # not installed, or broken on this machine: the table says so
            result.add_failure(
                {"network": ours.config.network.name, "part": "data", "of": name, "setting": key.split(" | ")[2]},
                "images/s",
                one_line(error),
            )
    return subjects


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
