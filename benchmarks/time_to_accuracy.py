"""How long a recipe takes to an accuracy, over several seeds, with what is not training reported apart.

    python benchmarks/time_to_accuracy.py --peer
    python benchmarks/time_to_accuracy.py --preset cifar10 --data DIR --seeds 5
    python benchmarks/time_to_accuracy.py --recipes sample mine.yaml --data DIR --target 50
    python benchmarks/time_to_accuracy.py --commits HEAD~1 HEAD

Contestants take turns, seed by seed, each in processes of its own. `--peer` adds the minimal PyTorch reference loop
(benchmarks/peers/train.py) with the same network, data, batch, schedule and target.
"""

import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch

from benchmarks.measuring import ROOT, BenchmarkError, t_interval
from benchmarks.measuring.photos import export_folder
from benchmarks.measuring.processes import finished
from benchmarks.peers.whole_runs import OwnTraining, ReferenceLoop, Run, TimmTraining
from benchmarks.reporting import Result, Study, number
from benchmarks.reporting.drawing import draw_lines
from engine.config.command_line import load_config
from engine.training.network import build_network
from pipelines import open_dataset, sample_path
from pipelines.support.cores import usable_cores

# Recipe, target in percent, number of seeds, and what --data must name: nothing for the embedded sample.
PRESETS = {
    "sample": ("sample", 45.0, 3, ""),
    "cifar10": ("cifar10", 94.0, 5, "a folder of CIFAR-10 with train and val"),
    "imagenet": ("imagenet_inception_v3", 77.0, 1, "ImageNet with train and val"),
}
Training = OwnTraining | ReferenceLoop | TimmTraining
Runs = dict[str, list[Run]]

study = Study("time_to_accuracy", __doc__, data=None, seeds=None, set=[])
study.option("--preset", choices=tuple(PRESETS), default="sample", help="recipe, target and number of seeds")
study.option("--recipes", nargs="+", help="recipes to compare; none: the preset's")
study.option("--commits", nargs="+", default=[], help="commits of this repository; none: as it is")
study.option("--target", type=float, help="top-1 in percent; none: the preset's")
study.option("--peer", action="store_true", help="the minimal PyTorch reference loop too")
study.option("--timm", type=Path, help="timm's train.py too, in a clone of its source [directory]")


@study.check
def completed(options: Any) -> None:
    """Fills in what the preset says."""
    _, target, seeds, needed = PRESETS[options.preset]
    options.target = target if options.target is None else options.target
    options.seeds = options.seeds or seeds
    if needed and options.data is None:
        raise BenchmarkError(f"preset {options.preset} needs --data: {needed}")
    if options.commits and not shutil.which("git"):
        raise BenchmarkError(f"--commits {' '.join(options.commits)} needs git, which is not installed here")


@study
def main(options: Any, result: Result) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="contest-") as work:
        folder = Path(work)
        if options.data is not None and options.data.suffix == ".zip":
            options.data = _unpacked(options.data, folder / "data")
        trainings = _trainings(options, folder)
        started = time.monotonic()
        for split in ("train", "val"):  # the first time this builds their index
            open_dataset(options.data or sample_path(), split, progress=False)
        seconds = time.monotonic() - started
        result.add({"of": "data", "what": "opening and indexing"}, "seconds", seconds, higher_is_better=False)
        trainings += _peers(options, trainings[-1], folder) if options.peer or options.timm else []
        runs = _contest(trainings, options.seeds, folder, result)
    for name, group in runs.items():
        _add_runs(result, name, group, options.target)
    _compare(result, runs)
    styles = dict(zip(runs, ("-", "--", ":", "-.")))
    drawn = [(f"{name}, seed {run.seed}", run.curve, styles.get(name, "-")) for name in runs for run in runs[name]]
    lines = [(label, *zip(*curve), style) for label, curve, style in drawn if curve]
    draw_lines(result.picture_path(), f"To {options.target:g}% top-1", "seconds", "top-1 (%)", lines)
    result.note(
        f"Seconds to {options.target:g}% count from the end of the process's start-up; start-up, compilation, evaluation and "
        "data preparation stand apart. Means with 95% t intervals over seeds."
    )
    return ["best_top1", "reached", "deviation"]


def _unpacked(archive: Path, folder: Path) -> Path:
    """The archive's files in `folder`. Raises BenchmarkError when it cannot be read."""
    try:
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)
    except (OSError, zipfile.BadZipFile) as error:
        raise BenchmarkError(f"{archive} cannot be unpacked: {error}") from None
    return folder


def _trainings(options: Any, folder: Path) -> list[Training]:
    """Ours, by recipe and commit."""
    recipes = options.recipes or PRESETS[options.preset][:1]
    data = ["--data.path", str(options.data.resolve())] if options.data else []
    trees = {commit: _tree(commit, folder / f"tree{number}") for number, commit in enumerate(options.commits)}
    trainings: list[Training] = []
    for recipe in recipes:
        path = str(Path(recipe).resolve()) if Path(recipe).suffix else recipe
        arguments = ["--recipe", path, *data, "--run.target_top1", str(options.target), *options.set]
        load_config(arguments)  # so that a mistake ends here, before anything is trained
        for commit, tree in (trees or {"": ROOT}).items():
            name = " ".join(filter(None, ("ours" if len(recipes) == 1 else recipe, commit)))
            trainings.append(OwnTraining(name, tuple(arguments), tree))
    return trainings


def _tree(commit: str, folder: Path) -> Path:
    """The source of a commit of this repository, which borrows its objects. Raises BenchmarkError for an unknown one."""
    what = f"the checkout of commit {commit!r}"
    found = finished(["git", "-C", ROOT, "rev-parse", "--verify", f"{commit}^{{commit}}"], what)[1].strip()
    finished(["git", "clone", "--quiet", "--shared", "--no-checkout", ROOT, folder], what)
    finished(["git", "-C", folder, "checkout", "--quiet", "--detach", found], what)
    return folder


def _peers(options: Any, ours: OwnTraining, folder: Path) -> list[Training]:
    """The peers that are asked for, on the dataset as folders of images."""
    config, data = load_config(ours.arguments), options.data
    if data is None or not any((data / "train").glob("*/*.[jJ][pP]*")):
        data = folder / "images"
        for split in ("train", "val"):
            export_folder(open_dataset(options.data or sample_path(), split, progress=False), data)
    classes = len(open_dataset(data, "train", progress=False).classes)
    with torch.device("meta"):
        network = build_network(config, classes).metadata()
    common = (config, data.resolve(), network, options.target, usable_cores())
    peers: list[Training] = [ReferenceLoop("PyTorch reference loop", *common)] if options.peer else []
    return peers + ([TimmTraining("timm's train.py", *common, options.timm.resolve())] if options.timm else [])


def _contest(trainings: Sequence[Training], seeds: int, folder: Path, result: Result) -> Runs:
    """All trainings, in turns, the order reversing from seed to seed."""
    runs: Runs = {training.name: [] for training in trainings}
    for seed in range(seeds):
        for training in trainings if seed % 2 == 0 else reversed(trainings):
            result.say(f"training {training.name}, seed {seed} ...")
            run = training.train(seed, folder / "run")
            shutil.rmtree(folder / "run", ignore_errors=True)
            reached = "not reached" if run.to_target is None else f"reached after {run.to_target:.1f} s"
            speed = f"{run.images_per_second:,.0f} images/s, {run.wall:.1f} s in all"
            result.say(f"  {reached}; best {run.best:.2f}%, {speed}")
            runs[training.name].append(run)
    return runs


def _add_runs(result: Result, name: str, runs: list[Run], target: float) -> None:
    reached = [run.to_target for run in runs if run.to_target is not None]
    case, best = {"of": name, "what": f"to {target:g}%"}, max(run.best for run in runs)
    if reached:
        several = len(reached) > 1
        result.add(
            case, "seconds", reached, interval=t_interval(reached) if several else None, higher_is_better=False,
            mean=float(np.mean(reached)), deviation=float(np.std(reached, ddof=1)) if several else 0.0,
            reached=f"{len(reached)} of {len(runs)}", best_top1=best,
        )  # fmt: skip
        computing = [run.to_target - run.compiling for run in runs if run.to_target is not None]
        if computing != reached:
            apart = case | {"what": f"to {target:g}% but for compiling"}
            result.add(apart, "seconds", computing, higher_is_better=False)
    else:
        result.add_failure(case, "seconds", f"not reached in {len(runs)} runs; the best was {best:.2f}%")
    parts = {what: [getattr(run, what) for run in runs] for what in ("starting", "compiling", "evaluating", "wall")}
    result.add_each({"of": name}, "what", "seconds", parts, higher_is_better=False)
    result.add({"of": name, "what": "training"}, "images/s", [run.images_per_second for run in runs])


def _compare(result: Result, runs: Runs) -> None:
    """How many times longer the others take than the first, where both reached the target with a seed."""
    first, *others = runs
    for other in others:
        pairs = [(a.to_target, b.to_target) for a, b in zip(runs[first], runs[other]) if a.to_target and b.to_target]
        case = {"of": first, "what": f"{other} over {first}"}
        if not pairs:
            result.add_failure(case, "times the seconds", "there is no seed with which both reached the target")
            continue
        ratios = [theirs / ours for ours, theirs in pairs]
        result.add(case, "times the seconds", ratios)
        result.note(f"{first} takes {number(100 / float(np.median(ratios)))}% of the time of {other}.")


if __name__ == "__main__":
    study.start()
