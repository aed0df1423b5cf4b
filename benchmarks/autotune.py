"""Finds settings for this machine, network and dataset within a stated time, and proves them against the defaults.

    python benchmarks/autotune.py --network inception_v3 --minutes 5 --recipe-output tuned.yaml
    python engine/train.py --recipe tuned.yaml --data.path DIR

One setting after the other is tried beside the best so far, both taking turns; it is kept when it is faster beyond the
noise. In the end the best runs beside the defaults once more, and where it is not faster, the defaults are the answer.
Nothing is tried that changes what is learnt: a batch that changes is made up by accumulation to the same global batch.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

import torch
import yaml
from rich.console import Console

from benchmarks.measuring.command_line import Parser, add_output_options, add_training_options, positive
from benchmarks.measuring.machine import machine_line
from benchmarks.measuring.measure import Measurement, alternate, one_line
from benchmarks.measuring.photos import write_photos
from benchmarks.measuring.summaries import Ratio
from benchmarks.measuring.workload import Workload
from benchmarks.reporting.results import RESULTS, Result, number
from engine.config.command_line import load_config
from engine.config.options import StrategyConfig
from engine.distributed.strategies import join
from engine.faults.exit_status import DONE, run_entry_point
from launch.environment import Environment
from pipelines import list_backends, open_dataset
from pipelines.support.cores import usable_cores

Settings = dict[str, Any]

# What a setting must gain, beside being faster beyond the noise: smaller gains are not worth an option.
_WORTHWHILE = 1.02
# Compiling a network takes about so long, and nothing can end it early.
_COMPILING = 60.0


@dataclass
class Trial:
    """A change tried on top of the best settings so far, what it brought, and whether it was kept."""

    change: Settings
    ratio: Ratio | None
    kept: bool
    words: str


@dataclass
class Search:
    """The search: `build` makes a workload of settings (and may raise), `seconds` are for all of it."""

    build: Callable[[Settings], Workload]
    seconds: float
    windows: int
    window_seconds: float
    best: Settings = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._started = time.monotonic()

    def left(self) -> float:
        """Seconds of the stated time that are left."""
        return self.seconds - (time.monotonic() - self._started)

    def run(self, steps: Sequence[Sequence[Settings]], say: Callable[[str], None]) -> None:
        """Tries the changes of each step in turn on what was best before, while there is time; a quarter of the time is
        kept for the proof. A step ends at the first change that does not help, its changes being ordered by size."""
        for changes in steps:
            for change in changes:
                if self.left() < self.seconds / 4:
                    say("the time is used up; what is left is for the proof")
                    return
                if "compile.enabled" in change and self.left() - self.seconds / 4 < _COMPILING:
                    say("too little time is left to compile")
                    break
                if not self._try(change, say):
                    break

    def _try(self, change: Settings, say: Callable[[str], None]) -> bool:
        named = " ".join(f"--{key} {value}" for key, value in change.items())
        before, after = self.compare(self.best, self.best | change)
        if after.failure is not None or before.failure is not None:
            self.trials.append(Trial(change, None, False, after.failure or str(before.failure)))
            say(f"  {named}: {after.failure or before.failure}")
            return False
        ratio = after.over(before)
        kept = ratio.low > 1 and ratio.value > _WORTHWHILE
        if kept:
            self.best = self.best | change
        self.trials.append(Trial(change, ratio, kept, f"{number(after.rate.median)} images/s"))
        say(f"  {named}: {ratio}{', kept' if kept else ''}")
        return kept

    def compare(self, first: Settings, second: Settings) -> tuple[Measurement, Measurement]:
        """Trains with both settings in turns, from data to new weights."""
        measured: dict[str, Measurement] = {}
        workloads: dict[str, Workload] = {}
        try:
            for name, settings in (("first", first), ("second", second)):
                try:
                    workloads[name] = self.build(settings)
                except Exception as error:  # a mode that does not work on this machine, memory that does not suffice
                    measured[name] = Measurement(name, failure=one_line(error))
            subjects = {
                n: w.timed_end_to_end(w.steps_in(self.window_seconds)) for n, w in workloads.items() if not measured
            }
            measured |= alternate(subjects, windows=self.windows)
        finally:
            for workload in workloads.values():
                workload.close()
        empty = Measurement("", failure="not measured beside a setting that failed")
        return measured.get("first", empty), measured.get("second", empty)


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    communicator = join(Environment(), StrategyConfig())
    console = Console(highlight=False, soft_wrap=True)
    result = Result("autotune", vars(options))
    with tempfile.TemporaryDirectory(prefix="photos-") as made:
        folder = options.data or write_photos(Path(made), max(256, 4 * options.batch_size))
        dataset = open_dataset(folder, "train", progress=False)
        fixed = ["--network.name", options.network, "--data.path", str(folder), *options.set]
        fixed += ["--data.global_batch_size", str(options.batch_size)]

        def build(settings: Settings) -> Workload:
            changed = {"data.batch_size": options.batch_size} | settings
            config = load_config(
                [*fixed, *(text for key, value in changed.items() for text in (f"--{key}", str(value)))]
            )
            return Workload(config, communicator, dataset, num_classes=1000)

        build({}).close()  # bad input ends here, in one line
        search = Search(build, 60 * options.minutes, options.windows, options.seconds)
        console.print(f"searching for {options.minutes:g} minutes ...")
        search.run(_steps(options.batch_size, communicator.device.type == "cuda"), console.print)
        console.print("proving the best settings against the defaults ...")
        _prove(search, result, options)
    recipe = _recipe_text(search, result, options)
    options.recipe_output.parent.mkdir(parents=True, exist_ok=True)
    options.recipe_output.write_text(recipe)
    result.print(())
    console.print(recipe, markup=False)
    console.print(f"Written: {options.recipe_output} and {result.save(options.output)}", markup=False)
    return DONE


def _parser() -> Parser:
    parser = Parser("Settings for this machine: threads, prefetch, backend, decoding, batch, compilation, fusion.")
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--network", default="inception_v3" if on_gpu else "debug", help="name of a network")
    parser.add_argument("--data", type=Path, default=None, help="dataset; none: made photos, 500 x 375")
    parser.add_argument("--batch-size", type=positive, default=128 if on_gpu else 32, help="images a step; it is kept")
    parser.add_argument("--minutes", type=float, default=3.0, help="of search and proof")
    parser.add_argument("--windows", type=positive, default=5, help="measured windows of each side of a comparison")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a window, about")
    parser.add_argument("--recipe-output", type=Path, default=Path("tuned.yaml"), help="the recipe fragment")
    add_training_options(parser)
    add_output_options(parser, RESULTS)
    return parser


def _steps(batch: int, on_gpu: bool) -> list[list[Settings]]:
    """What to try: steps in the order of what they usually bring, changes within a step from the likeliest on."""
    cores = usable_cores()
    threads: list[Settings] = [
        {"data.workers": count} for count in dict.fromkeys((max(1, cores // 2), cores + 1, 2 * cores))
    ]
    # FFCV reads files of its own, which nothing else does, so with it there is no choice.
    backends: list[list[Settings]] = [[{"data.backend": "dali"}]] if "dali" in list_backends() else []
    compiling: list[list[Settings]] = [
        [{"compile.enabled": "true"}],
        [{"compile.enabled": "true", "compile.scope": "block"}],
    ]
    modes: list[list[Settings]] = [
        [{"compile.enabled": "true", "compile.mode": mode}] for mode in ("reduce-overhead", "max-autotune")
    ]
    halves: list[Settings] = [
        {"data.batch_size": size} for size in (batch // 2, batch // 4) if size >= 1 and batch % size == 0
    ]
    fusion: list[list[Settings]] = [[{"network.fuse": "true" if on_gpu else "false"}]]  # not the default
    steps: list[list[Settings]] = [
        *([change] for change in threads),
        [{"data.prefetch": 4}, {"data.prefetch": 8}],
        *backends,
    ]
    if not on_gpu:
        return [*steps, *fusion, halves, *compiling]
    fusion += [[{"network.fused_norm": "true"}], [{"network.pad_channels": 4}, {"network.pad_channels": 8}]]
    # How much of a batch the JPEG engine takes, the rest being the CUDA cores'.
    split: list[Settings] = [{"data.backend": "dali", "data.dali.hw_decoder_load": share} for share in (0.75, 0.5)]
    return [*compiling, *modes, *fusion, *steps, *([split] if backends else []), halves]


def _prove(search: Search, result: Result, options: Any) -> None:
    """The best beside the defaults; the defaults win when the best is not at least as fast."""
    case = {"network": options.network, "batch": options.batch_size}
    for trial in search.trials:
        named = " ".join(f"--{key} {value}" for key, value in trial.change.items())
        tried = case | {"settings": f"tried: {named}"}
        if trial.ratio is None:
            result.add_failure(tried, "times the best before", trial.words)
        else:
            interval = (trial.ratio.low, trial.ratio.high)
            result.add(tried, "times the best before", trial.ratio.value, interval=interval, kept=trial.kept)
    if not search.best:
        result.note("No setting was faster than the defaults beyond the noise: the defaults are the answer.")
        return
    defaults, best = search.compare({}, search.best)
    ratio = best.over(defaults)
    result.add(case | {"settings": "defaults"}, "images/s", defaults)
    result.add(case | {"settings": "best"}, "images/s", best)
    result.add(case | {"settings": "best"}, "times the defaults", ratio.value, interval=(ratio.low, ratio.high))
    if ratio.value < 1:
        result.note(f"Side by side the best of the search was {ratio} of the defaults: the defaults are the answer.")
        search.best = {}


def _recipe_text(search: Search, result: Result, options: Any) -> str:
    """YAML of the settings, with the evidence as comments."""
    tree: dict[str, dict[str, Any]] = {"network": {"name": options.network}, "data": {"batch_size": options.batch_size}}
    for key, value in search.best.items():
        *sections, name = key.split(".")
        section: dict[str, Any] = tree
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = yaml.safe_load(str(value))
    if tree["data"]["batch_size"] != options.batch_size:
        tree["data"]["global_batch_size"] = options.batch_size
    lines = [f"Found by benchmarks/autotune.py on {machine_line(result.machine)}, {result.stamp}."]
    for row in result.rows:
        lines.append(f"{row.case['settings']}: {row.shown} {row.metric}{' (kept)' if row.details.get('kept') else ''}")
    lines += result.notes
    return "".join(f"# {line}\n" for line in lines) + yaml.safe_dump(tree, sort_keys=False)


if __name__ == "__main__":
    run_entry_point(main)
