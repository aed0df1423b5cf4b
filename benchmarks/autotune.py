"""Finds settings for this machine, network and dataset within a stated time, and proves them against the defaults.

    python benchmarks/autotune.py --network inception_v3 --minutes 5 --recipe-output tuned.yaml
    python engine/train.py --recipe tuned.yaml --data.path DIR

One setting after the other is tried beside the best so far, both taking turns; it is kept when it is faster beyond the
noise. In the end the best runs beside the defaults once more, and where it is not faster, the defaults are the answer.
Nothing is tried that changes what is learnt: a batch that changes is made up by accumulation to the same global batch.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import yaml

from benchmarks.measuring import Measurement, alternate, as_arguments, machine_line, one_line
from benchmarks.measuring.photos import shared_photos
from benchmarks.measuring.workload import Workload
from benchmarks.reporting import Result, Study
from engine.config.command_line import load_config
from engine.config.options import StrategyConfig
from engine.config.recipes import nested
from engine.distributed.strategies import join
from launch.environment import Environment
from pipelines import list_backends, open_dataset
from pipelines.support.cores import usable_cores

Settings = dict[str, Any]

# What a setting must gain, beside being faster beyond the noise: smaller gains are not worth an option.
_WORTHWHILE = 1.02
# Compiling a network takes about so long, and nothing can end it early.
_COMPILING = 60.0
ON_GPU = torch.cuda.is_available()
study = Study(
    "autotune", __doc__, network="inception_v3" if ON_GPU else "debug", data=None, batch_size=128 if ON_GPU else 32,
    windows=5, seconds=1.0, set=[],
)  # fmt: skip
study.option("--minutes", type=float, default=3.0, help="of search and proof")
study.option("--recipe-output", type=Path, default=Path("tuned.yaml"), help="the recipe fragment")


@study
def main(options: Any, result: Result) -> None:
    communicator = join(Environment(), StrategyConfig())
    folder = options.data or shared_photos(options.batch_size, 85, result.say)
    dataset = open_dataset(folder, "train", progress=False)
    fixed = {"network.name": options.network, "data.path": folder, "data.global_batch_size": options.batch_size}

    def build(settings: Settings) -> Workload:
        changed = fixed | {"data.batch_size": options.batch_size} | settings
        return Workload(load_config([*options.set, *as_arguments(changed)]), communicator, dataset)

    build({}).close()  # bad input ends here, in one line
    search = Search(build, 60 * options.minutes, options, result)
    result.say(f"searching for {options.minutes:g} minutes ...")
    search.run(_steps(options.batch_size, communicator.device.type == "cuda"))
    result.say("proving the best settings against the defaults ...")
    search.prove()
    recipe = _recipe_text(search.best, result, options)
    options.recipe_output.parent.mkdir(parents=True, exist_ok=True)
    options.recipe_output.write_text(recipe)
    result.say(f"{recipe}Written: {options.recipe_output}")


@dataclass
class Search:
    """The search for the `best` settings: `build` makes a workload of settings (and may raise), `seconds` are for all of it."""

    build: Callable[[Settings], Workload]
    seconds: float
    options: Any
    result: Result
    best: Settings = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._started = time.monotonic()
        self._case = {"network": self.options.network, "batch": self.options.batch_size}

    def run(self, steps: Sequence[Sequence[Settings]]) -> None:
        """Tries the changes of each step in turn on what was best before, while there is time; a quarter of the time is
        kept for the proof. A step ends at the first change that does not help, its changes being ordered by size."""
        for changes in steps:
            for change in changes:
                left = 0.75 * self.seconds - (time.monotonic() - self._started)
                if left < 0:
                    self.result.say("the time is used up; what is left is for the proof")
                    return
                if "compile.enabled" in change and left < _COMPILING:
                    self.result.say("too little time is left to compile")
                    break
                if not self._keeps(change):
                    break

    def _keeps(self, change: Settings) -> bool:
        """Whether a change on top of the best settings so far is one of them from now on; its row says why."""
        case = self._case | {"settings": f"tried: {' '.join(as_arguments(change))}"}
        before, after = self.compare(self.best, self.best | change)
        if failure := after.failure or (before.failure and f"the best before failed: {before.failure}"):
            self.result.add_failure(case, "times the best before", failure)
            self.result.say(f"  {case['settings']}: {failure}")
            return False
        ratio = after.over(before)
        kept = ratio.low > 1 and ratio.value > _WORTHWHILE
        self.best = self.best | change if kept else self.best
        self.result.add(case, "times the best before", ratio, kept=kept)
        self.result.say(f"  {case['settings']}: {ratio}{', kept' if kept else ''}")
        return kept

    def compare(self, first: Settings, second: Settings) -> tuple[Measurement, Measurement]:
        """Trains with both settings in turns, from data to new weights."""
        workloads: list[Workload] = []
        named = {"first": first, "second": second}
        try:
            for settings in named.values():
                try:
                    workloads.append(self.build(settings))
                except Exception as error:  # a mode that does not work on this machine, memory that does not suffice
                    why = {name: one_line(error) if which is settings else None for name, which in named.items()}
                    return Measurement("first", failure=why["first"]), Measurement("second", failure=why["second"])
            timed = [workload.timed_end_to_end(workload.steps_in(self.options.seconds)) for workload in workloads]
            measured = alternate(dict(zip(("first", "second"), timed)), windows=self.options.windows)
            return measured["first"], measured["second"]
        finally:
            for workload in workloads:
                workload.close()

    def prove(self) -> None:
        """The best beside the defaults; the defaults win when the best is not at least as fast."""
        if not self.best:
            self.result.note("No setting was faster than the defaults beyond the noise: the defaults are the answer.")
            return
        defaults, best = self.compare({}, self.best)
        self.result.add_each(self._case, "settings", "images/s", {"defaults": defaults, "best": best})
        if not (best.windows and defaults.windows):
            why = best.failure or defaults.failure
            self.result.note(f"Side by side the two could not be measured ({why}): the defaults are the answer.")
            self.best = {}
            return
        ratio = best.over(defaults)
        self.result.add(self._case | {"settings": "best"}, "times the defaults", ratio)
        if ratio.value < 1:
            words = f"Side by side the best of the search was {ratio} of the defaults: the defaults are the answer."
            self.result.note(words)
            self.best = {}


def _steps(batch: int, on_gpu: bool) -> list[list[Settings]]:
    """What to try: steps in the order of what they usually bring, changes within a step from the likeliest on."""
    cores = usable_cores()
    threads = [[{"data.workers": count}] for count in dict.fromkeys((max(1, cores // 2), cores + 1, 2 * cores))]
    # FFCV reads files of its own, which nothing else does, so with it there is no choice.
    backends = [[{"data.backend": "dali"}]] if "dali" in list_backends() else []
    loading = [*threads, [{"data.prefetch": 4}, {"data.prefetch": 8}], *backends]
    compiled = {"compile.enabled": "true"}
    compiling = [[compiled], [compiled | {"compile.scope": "block"}]]
    halves = [{"data.batch_size": size} for size in (batch // 2, batch // 4) if size >= 1 and batch % size == 0]
    fusion = [[{"network.fuse": "false"}]]  # not the default
    if not on_gpu:
        return [*loading, *fusion, halves, *compiling]
    modes = [[compiled | {"compile.mode": mode}] for mode in ("reduce-overhead", "max-autotune")]
    fusion += [[{"network.fused_norm": "false"}], [{"compile.combo_kernels": "true"}]]
    fusion += [[{"network.pad_channels": 4}, {"network.pad_channels": 8}]]
    # How much of a batch the JPEG engine takes, the rest being the CUDA cores'.
    split = [{"data.backend": "dali", "data.dali.hw_decoder_load": share} for share in (0.75, 0.5)]
    return [*compiling, *modes, *fusion, *loading, *([split] if backends else []), halves]


def _recipe_text(best: Settings, result: Result, options: Any) -> str:
    """YAML of the settings, with the evidence as comments."""
    settings = {"network.name": options.network, "data.batch_size": options.batch_size}
    settings |= {key: yaml.safe_load(str(value)) for key, value in best.items()}
    if settings["data.batch_size"] != options.batch_size:
        settings["data.global_batch_size"] = options.batch_size
    lines = [f"Found by benchmarks/autotune.py on {machine_line(result.machine)}, {result.stamp}."]
    for row in result.rows:
        lines.append(f"{row.case['settings']}: {row.shown} {row.metric}{' (kept)' if row.details.get('kept') else ''}")
    lines += result.notes
    return "".join(f"# {line}\n" for line in lines) + yaml.safe_dump(nested(settings), sort_keys=False)


if __name__ == "__main__":
    study.start()
