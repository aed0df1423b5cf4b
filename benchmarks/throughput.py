"""How fast this system trains here, what holds it back, how that compares, and how far it is from the machine's limits.

    python benchmarks/throughput.py
    python benchmarks/throughput.py --networks inception_v4 --backends native dali --batch-sizes 64 128 --compile eager default
    python benchmarks/throughput.py --backends native dali --stores windows planes --quality 97
    torchrun --nproc_per_node=8 benchmarks/throughput.py --networks inception_v3 --batch-sizes 256

For every case: (a) the step on synthetic batches, (b) the loader alone, (c) both together; then a verdict in words, with
the change that it proposes measured too. Peers run in turns with ours, window by window, in this process. What the budget
of seconds has no room for is left out, peers before rounds of turns, and said.
"""

import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks.measuring import PRECISIONS, Measurement, Subject, alternate, as_arguments, one_line
from benchmarks.measuring.budget import Budget
from benchmarks.measuring.limits import Limits, measure_limits
from benchmarks.measuring.photos import shared_photos
from benchmarks.measuring.workload import Workload, compiled_at_once
from benchmarks.peers.loaders import LOADERS
from benchmarks.peers.networks import peers_of
from benchmarks.peers.subjects import compared_counts, data_subject, network_subject, prepared_subject
from benchmarks.reporting import Result, Study, number
from benchmarks.reporting.advice import Verdict
from benchmarks.reporting.drawing import draw_bars
from benchmarks.reporting.results import Row
from benchmarks.studies.throughput_case import Case, store_subject
from engine.config.options import StrategyConfig
from engine.distributed.communicator import Communicator
from engine.distributed.strategies import join
from inception import create_model
from launch.environment import detect
from pipelines import Dataset, open_dataset
from pipelines.preparing.stores import STORES
from pipelines.support.cores import usable_cores

# A step on a CPU that takes a larger share of the budget has its batch halved, unless a batch was asked for.
_LARGEST_STEP = 1 / 12
ON_GPU = torch.cuda.is_available()
study = Study(
    "throughput", __doc__, networks=["inception_v3"], batch_sizes=None, compile=["eager", "default"] if ON_GPU else
    ["eager"], data=None, quality=85, workers=0, windows=5, seconds=1.5, budget=180.0, set=[],
)  # fmt: skip
study.option("--backends", nargs="+", default=["auto"], help="native, dali, ffcv, synthetic, auto")
study.option("--precisions", nargs="+", choices=PRECISIONS, default=["auto"])
study.option("--peers", nargs="*", choices=LOADERS, default=tuple(LOADERS), help="whom to measure beside us")
stores = [name for name, store in STORES.items() if store.rewrite is not None]
study.option("--stores", nargs="*", choices=stores, default=(), help="how else to keep the photos, beside JPEGs")
study.option("--no-trial", dest="trial", action="store_false", help="do not try what the verdict proposes")


@study.check
def _completed(options: Any) -> None:
    options.any_batch = options.batch_sizes is None
    options.batch_sizes = options.batch_sizes or [128 if ON_GPU else 8]
    for network in options.networks:
        with torch.device("meta"):
            create_model(network)  # a wrong name ends here


@study
def main(options: Any, result: Result) -> list[str]:
    budget, communicator = Budget(options.budget), join(detect(), StrategyConfig())
    result.quiet = not communicator.is_main
    images = max(options.batch_sizes) * communicator.world_size
    options.folder = options.data or shared_photos(images, options.quality, result.say)
    with tempfile.TemporaryDirectory(prefix="peers-") as work, compiled_at_once():
        dataset = open_dataset(options.folder, "train", progress=False)
        result.say("measuring the limits of this machine ...")
        communicator.barrier()  # ranks that share a machine measure together
        limits = measure_limits(communicator.device, min(0.3, options.seconds))
        for done, network in enumerate(options.networks):
            share = budget.share(len(options.networks) - done)
            Comparison(network, options, communicator, dataset, limits, share, Path(work), result).run()
    result.note(
        "Medians with 95% intervals over windows measured in turns; the first window of each subject (compilation, start of "
        f"workers, caches) and what loaders made before a window are excluded. Ranks: {communicator.world_size}."
    )
    result.notes += budget.notes()
    if communicator.device.type == "cpu":
        result.note("No GPU here: power, GPU memory and GPU decoding are not measured.")
    if communicator.world_size > 1:
        result.note("Peers are measured on one rank only: run this without torchrun.")
    if communicator.is_main:
        _draw(result)
    communicator.close()
    details = "spread step_seconds_p95 first_step_seconds of_ours cpu_cores process_gib gpu_gib watts images_per_joule"
    return details.split()


def _draw(result: Result) -> None:
    panels: dict[str, dict[str, Row]] = {}
    for row in [row for row in result.rows if row.metric == "images/s"]:
        part = row.case["part"]
        title = f"{row.case['network']}: {'loading alone' if part == 'data' else 'training'}"
        named = [*([] if part == "data" else [part]), row.case["of"], row.case["setting"]]
        panels.setdefault(title, {})[", ".join(named)] = row
    draw_bars(result.picture_path(), panels)


@dataclass
class Comparison:
    """All cases of one network, and what stands beside them, in turns. `others` are the rows of subjects that are not ours."""

    network: str
    options: Any
    communicator: Communicator
    dataset: Dataset
    limits: Limits
    budget: Budget
    work: Path
    result: Result
    workloads: dict[Case, Workload] = field(default_factory=dict)
    subjects: dict[str, Subject] = field(default_factory=dict)
    others: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def alone(self) -> bool:
        """Whether this is the only rank. Among several none may fail or stop where the others go on."""
        return self.communicator.world_size == 1

    def run(self) -> None:
        options = self.options
        settings = product(options.backends, options.precisions, options.batch_sizes, options.compile)
        cases = [Case(self.network, *setting) for setting in settings]
        for case in cases:
            self._prepare(case, only=len(cases) == 1)
        if not self.workloads:
            return
        first = next(iter(self.workloads))
        if self.alone:
            self._prepare_others(self.workloads[first])
        measured = self._measure()
        for case, workload in self.workloads.items():
            # Clocks differ from rank to rank, and all must try the same change: the first one's verdict holds.
            verdict = self.communicator.gather(case.report(workload, measured, self.limits, self.result))[0]
            if verdict is not None and verdict.change and case == first and options.trial:
                self._try(case, verdict, workload)
        for name, row in self.others.items():
            theirs, ours = measured[name], measured[first.key(row["part"])]
            share = theirs.over(ours).value if theirs.windows and ours.windows else None
            self.result.add(row, "images/s", theirs, of_ours=share)
        for workload in self.workloads.values():
            workload.close()

    def _prepare(self, case: Case, only: bool) -> None:
        """Makes a case's workload and its subjects; on a slow CPU with a smaller batch than the default."""
        self.result.say(f"preparing {case} ...")
        try:
            workload = case.workload(self.options, self.communicator, self.dataset)
            subjects, seconds = case.subjects(workload, self.options.seconds)
        except Exception as error:
            if not self.alone or only:
                raise
            self.result.add_failure(case.row("step"), "images/s", one_line(error))
            return
        first, most = not self.workloads, _LARGEST_STEP * self.options.budget
        slow = workload.device.type == "cpu" and workload.step_seconds > most
        if slow and self.options.any_batch and case.batch_size > 2:
            workload.close()
            self.result.say(f"a step takes {workload.step_seconds:.0f} s here: half the batch instead")
            self._prepare(replace(case, batch_size=case.batch_size // 2), only)
        elif self.budget.admits(str(case), 2 * seconds, must=first or not self.alone):
            self.workloads[case] = workload
            self.subjects |= subjects
        else:
            workload.close()

    def _prepare_others(self, ours: Workload) -> None:
        """What stands beside ours, as far as the budget admits it: a window as warm-up and one that counts."""
        for what, row, prepare in self._others(ours):
            if subject := prepared_subject(what, row, prepare, self.budget, self.result):
                name = " | ".join(row.values())
                self.subjects[name], self.others[name] = subject, row

    def _others(self, ours: Workload) -> Iterator[tuple[str, dict[str, str], Callable[[], tuple[Subject, float]]]]:
        """Others' networks and loaders, and the native loader on other stores: what it is, its row, and what makes the subject
        and says how many seconds a window of it takes."""
        options, batch, work = self.options, ours.batching.batch_size, self.work / self.network
        for source in [source for source in peers_of(self.network) if source in options.peers]:
            for mode in options.compile:
                setting = f"{'bf16' if ours.bf16 else 'fp32'}, {mode}, batch {batch}"
                row = {"network": self.network, "part": "step", "of": source, "setting": setting}
                yield f"{source}'s step", row, partial(self._network, source, mode, ours)
        if options.peers and not peers_of(self.network):
            self.result.note(f"Neither torchvision nor timm has a network named {self.network}.")
        setting = f"{options.workers or usable_cores()} workers, batch {batch}"
        data = {"network": self.network, "part": "data"}
        for name in options.peers:
            row = data | {"of": name, "setting": setting}
            prepare = partial(data_subject, name, ours, options, work, len(self.dataset), self.result)
            yield f"{name}'s loader", row, prepare
        for store in options.stores:
            row = data | {"of": f"native on {store}", "setting": setting}
            yield f"the store {store}", row, partial(store_subject, store, ours, options, work)

    def _network(self, source: str, mode: str, ours: Workload) -> tuple[Subject, float]:
        if mode == self.options.compile[0]:
            self.result.note(compared_counts(source, ours))
        seconds = max(self.options.seconds, 2 * ours.step_seconds)
        return network_subject(source, mode, ours, self.options.seconds), seconds

    def _measure(self) -> dict[str, Measurement]:
        """Rounds of turns, as many as were asked for and the budget has room for."""
        wanted, seconds = self.options.windows, self.budget.remaining()
        if not self.alone:  # all ranks end after the same round
            rounds = self.communicator.gather(2 * seconds / self.budget.planned - 1)
            wanted, seconds = max(1, int(min(wanted, *rounds))), math.inf
        self.result.say(f"measuring {len(self.subjects)} subjects in turns, {wanted} windows and one of warm-up ...")
        begun: set[int] = set()

        def say(name: str, number: int) -> None:
            if number < 0:
                self.result.say(f"  warming up: {name}")
            elif number not in begun:
                begun.add(number)
                self.result.say(f"  round {number + 1} of {wanted}")

        measured = alternate(self.subjects, windows=wanted, budget_seconds=seconds, on_window=say, tolerant=self.alone)
        self.budget.planned = 0.0
        missing = self.options.windows - len(begun)
        self.budget.left_out += [f"{missing} of {self.options.windows} windows"] if missing else []
        return measured

    def _try(self, case: Case, verdict: Verdict, before: Workload) -> None:
        """Measures what the verdict proposes beside what it was proposed for, and says what it brought."""
        change = as_arguments(verdict.change)
        named = " ".join(change)
        if "compile.enabled" in verdict.change and before.device.type == "cpu":
            self.result.note("Not tried, since compiling takes minutes on a CPU: --compile eager default does.")
            return
        windows = max(3, self.options.windows // 2 + 1)
        seconds = 4 * before.step_seconds + 2 * (windows + 1) * (self.options.seconds + 2 * before.step_seconds)
        if not self.communicator.gather(self.budget.admits(f"trying {named}", seconds))[0]:
            return
        self.result.say(f"trying {named} ...")
        trained = {"before": before}
        try:
            trained["after"] = case.workload(self.options, self.communicator, self.dataset, *change)
            subjects = {name: w.timed_end_to_end(w.steps_in(self.options.seconds)) for name, w in trained.items()}
            measured = alternate(subjects, windows=windows, tolerant=self.alone)
        except Exception as error:
            if not self.alone:
                raise
            self.result.note(f"Tried {named}: {one_line(error)}")
            return
        finally:
            if "after" in trained:
                trained["after"].close()
        row = case.row("end to end", before)
        row["setting"] += f", {named}"
        added = self.result.add(row, "images/s", measured["after"])
        if added.value is None:
            self.result.note(f"Tried {named}: {added.failure}")
        else:
            ratio = measured["after"].over(measured["before"])
            self.result.note(f"Tried {named}: {number(added.value)} images/s end to end, {ratio} of what it was.")


if __name__ == "__main__":
    study.start()
