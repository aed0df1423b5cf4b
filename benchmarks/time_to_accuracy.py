"""How long a recipe takes to an accuracy, over several seeds, with what is not training reported apart.

    python benchmarks/time_to_accuracy.py --peer
    python benchmarks/time_to_accuracy.py --preset cifar10 --data DIR --seeds 5
    python benchmarks/time_to_accuracy.py --recipes sample mine.yaml --data DIR --target 50
    python benchmarks/time_to_accuracy.py --commits HEAD~1 HEAD

Contestants take turns, seed by seed, each in processes of its own. `--peer` adds the minimal PyTorch reference loop
(benchmarks/peers/train.py) with the same network, data, batch, schedule and target.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

import numpy as np
import torch
from rich.console import Console

from benchmarks.measuring.command_line import BenchmarkError, Parser, add_output_options, add_training_options, positive
from benchmarks.measuring.photos import export_folder
from benchmarks.measuring.summaries import bootstrap_interval, t_interval
from benchmarks.peers.timm_training import TimmTraining
from benchmarks.peers.whole_runs import Contestant, ReferenceLoop, Run
from benchmarks.reporting.drawing import draw_lines
from benchmarks.reporting.results import RESULTS, Result, number
from engine.config.command_line import load_config
from engine.faults.exit_status import DONE, run_entry_point
from engine.training.network import build_network
from pipelines import open_dataset, sample_path
from pipelines.support.cores import usable_cores


@dataclass(frozen=True)
class Preset:
    """A recipe to a target in percent; `data` says what --data must name, empty for the embedded sample."""

    recipe: str
    target: float
    data: str
    seeds: int


PRESETS = {
    "sample": Preset("sample", 45.0, "", 3),
    "cifar10": Preset("cifar10", 94.0, "a folder of CIFAR-10 with train and val", 5),
    "imagenet": Preset("imagenet_inception_v3", 77.0, "ImageNet with train and val", 1),
}

Trainer = Contestant | ReferenceLoop | TimmTraining


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    preset = PRESETS[options.preset]
    options.target = preset.target if options.target is None else options.target
    options.seeds = options.seeds or preset.seeds
    if preset.data and options.data is None:
        raise BenchmarkError(f"preset {options.preset} needs --data: {preset.data}")
    result = Result("time_to_accuracy", vars(options))
    console = Console(highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="contest-") as folder, _trees(options.commits, Path(folder)) as trees:
        if options.data is not None and options.data.suffix == ".zip":
            options.data = _unpacked(options.data, Path(folder) / "data")
        seconds = _prepare(options)
        result.add({"of": "data", "what": "opening and indexing"}, "seconds", seconds, higher_is_better=False)
        trainers = _trainers(options, preset, trees, Path(folder))
        runs = _contest(trainers, options.seeds, Path(folder), console)
    for trainer in trainers:
        _add_runs(result, trainer.name, runs[trainer.name], options.target)
    if len(trainers) > 1:
        _compare(result, trainers[0].name, [trainer.name for trainer in trainers[1:]], runs)
    lines = [
        (f"{name}, seed {run.seed}", [s for s, _ in run.curve], [top1 for _, top1 in run.curve], style)
        for (name, group), style in zip(runs.items(), ("-", "--", ":", "-."))
        for run in group
    ]
    draw_lines(result.picture_path(options.output), f"To {options.target:g}% top-1", "seconds", "top-1 (%)", lines)
    result.note(
        f"Seconds to {options.target:g}% count from the end of the process's start-up; start-up, compilation, evaluation and "
        "data preparation stand apart. Means with 95% t intervals over seeds."
    )
    result.print(("best_top1", "reached", "deviation"))
    console.print(f"Written: {result.save(options.output)}")
    return DONE


def _parser() -> Parser:
    parser = Parser("Seconds to a target accuracy over several seeds.")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="sample", help="recipe, target and number of seeds")
    parser.add_argument("--recipes", nargs="+", default=None, help="recipes to compare; none: the preset's")
    parser.add_argument(
        "--commits", nargs="+", default=[], help="commits of this repository to compare; none: these files"
    )
    parser.add_argument(
        "--data", type=Path, default=None, help="dataset, or a zip file of one; none: the embedded sample"
    )
    parser.add_argument("--target", type=float, default=None, help="top-1 in percent; none: the preset's")
    parser.add_argument("--seeds", type=positive, default=None, help="trainings of each; none: the preset's")
    parser.add_argument("--ranks", type=positive, default=1, help="processes of a training")
    parser.add_argument("--peer", action="store_true", help="the minimal PyTorch reference loop too")
    parser.add_argument(
        "--timm", type=Path, default=None, help="timm's train.py too, in a clone of its source [directory]"
    )
    add_training_options(parser)
    add_output_options(parser, RESULTS)
    return parser


def _unpacked(archive: Path, folder: Path) -> Path:
    """The archive's files in `folder`. Raises BenchmarkError when it cannot be read."""
    try:
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)
    except (OSError, zipfile.BadZipFile) as error:
        raise BenchmarkError(f"{archive} cannot be unpacked: {error}") from None
    return folder


def _prepare(options: Any) -> float:
    """Seconds to open both splits; the first time this builds their index."""
    started = time.monotonic()
    for split in ("train", "val"):
        open_dataset(options.data or sample_path(), split, progress=False)
    return time.monotonic() - started


@contextlib.contextmanager
def _trees(commits: Sequence[str], folder: Path) -> Iterator[dict[str, Path]]:
    """A source tree for every commit, gone again afterwards; these files when none is named."""
    trees: dict[str, Path] = {}
    if commits and not shutil.which("git"):
        raise BenchmarkError(f"--commits {' '.join(commits)} needs git, which is not installed here")
    try:
        for commit in commits:
            path = folder / f"tree{len(trees)}"
            git = ["git", "-C", str(ROOT), "worktree", "add", "--detach", "--force", str(path), commit]
            done = subprocess.run(git, capture_output=True, text=True)
            if done.returncode:
                raise BenchmarkError(f"commit {commit!r} cannot be checked out: {done.stderr.strip().splitlines()[-1]}")
            trees[commit] = path
        yield trees or {"": ROOT}
    finally:
        for path in trees.values():
            subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(path)], capture_output=True)


def _trainers(options: Any, preset: Preset, trees: dict[str, Path], folder: Path) -> list[Trainer]:
    recipes = options.recipes or [preset.recipe]
    data = ["--data.path", str(options.data.resolve())] if options.data else []
    trainers: list[Trainer] = []
    arguments: list[str] = []
    for recipe in recipes:
        path = str(Path(recipe).resolve()) if Path(recipe).suffix else recipe
        arguments = ["--recipe", path, *data, "--run.target_top1", str(options.target), *options.set]
        load_config(arguments)  # so that a mistake ends here, before anything is trained
        for commit, tree in trees.items():
            name = " ".join(filter(None, ("ours" if len(recipes) == 1 else recipe, commit)))
            trainers.append(Contestant(name, tuple(arguments), tree, options.ranks))
    if options.peer or options.timm:
        trainers += _peers(options, arguments, folder)
    return trainers


def _peers(options: Any, arguments: Sequence[str], folder: Path) -> list[Trainer]:
    """The peers that are asked for, on the dataset as folders of images."""
    config = load_config(arguments)
    data = options.data
    if data is None or not any((data / "train").glob("*/*.[jJ][pP]*")):
        data = folder / "images"
        for split in ("train", "val"):
            export_folder(open_dataset(options.data or sample_path(), split, progress=False), data)
    classes = len(open_dataset(data, "train", progress=False).classes)
    with torch.device("meta"):
        network = build_network(config, classes).metadata()
    common = (config, data.resolve(), network, options.target, usable_cores())
    peers: list[Trainer] = []
    if options.peer:
        peers.append(ReferenceLoop("PyTorch reference loop", *common))
    if options.timm:
        peers.append(TimmTraining("timm's train.py", options.timm.resolve(), *common))
    return peers


def _contest(trainers: Sequence[Trainer], seeds: int, folder: Path, console: Console) -> dict[str, list[Run]]:
    """All trainings, in turns, the order reversing from seed to seed."""
    runs: dict[str, list[Run]] = {trainer.name: [] for trainer in trainers}
    for seed in range(seeds):
        for trainer in trainers if seed % 2 == 0 else reversed(trainers):
            console.print(f"training {trainer.name}, seed {seed} ...")
            place = folder / "run"
            run = trainer.train(seed, place)
            shutil.rmtree(place, ignore_errors=True)
            reached = "not reached" if run.to_target is None else f"reached after {run.to_target:.1f} s"
            console.print(
                f"  {reached}; best {run.best:.2f}%, {run.images_per_second:,.0f} images/s, {run.wall:.1f} s in all"
            )
            runs[trainer.name].append(run)
    return runs


def _add_runs(result: Result, name: str, runs: list[Run], target: float) -> None:
    reached = [run.to_target for run in runs if run.to_target is not None]
    case = {"of": name, "what": f"to {target:g}%"}
    best = max(run.best for run in runs)
    if reached:
        result.add(
            case, "seconds", reached, interval=t_interval(reached) if len(reached) > 1 else None, higher_is_better=False,
            mean=float(np.mean(reached)), deviation=float(np.std(reached, ddof=1)) if len(reached) > 1 else 0.0,
            reached=f"{len(reached)} of {len(runs)}", best_top1=best,
        )  # fmt: skip
        computing = [run.to_target - run.compiling for run in runs if run.to_target is not None]
        if computing != reached:
            result.add(
                case | {"what": f"to {target:g}% but for compiling"}, "seconds", computing, higher_is_better=False
            )
    else:
        result.add_failure(case, "seconds", f"not reached in {len(runs)} runs; the best was {best:.2f}%")
    for what in ("starting", "compiling", "evaluating", "wall"):
        result.add({"of": name, "what": what}, "seconds", [getattr(run, what) for run in runs], higher_is_better=False)
    result.add({"of": name, "what": "training"}, "images/s", [run.images_per_second for run in runs])


def _compare(result: Result, first: str, others: Sequence[str], runs: dict[str, list[Run]]) -> None:
    """How many times longer the others take, where both reached the target with a seed."""
    for other in others:
        pairs = [(a.to_target, b.to_target) for a, b in zip(runs[first], runs[other]) if a.to_target and b.to_target]
        case = {"of": first, "what": f"{other} over {first}"}
        if not pairs:
            result.add_failure(case, "times the seconds", "there is no seed with which both reached the target")
            continue
        ratios = [theirs / ours for ours, theirs in pairs]
        interval = bootstrap_interval(ratios) if len(ratios) > 2 else None
        result.add(case, "times the seconds", ratios, interval=interval)
        result.note(f"{first} takes {number(100 / float(np.median(ratios)))}% of the time of {other}.")


if __name__ == "__main__":
    run_entry_point(main)
