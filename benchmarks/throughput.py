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
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks.measuring import (
    PRECISIONS,
    BenchmarkError,
    Measurement,
    Parser,
    Subject,
    alternate,
    as_arguments,
    one_line,
)
from benchmarks.measuring.budget import Budget
from benchmarks.measuring.limits import Limits, measure_limits
from benchmarks.measuring.photos import shared_photos
from benchmarks.measuring.workload import Workload
from benchmarks.peers.loaders import LOADERS
from benchmarks.peers.networks import peers_of
from benchmarks.peers.subjects import compared_counts, data_setting, data_subject, network_subject
from benchmarks.reporting.advice import Verdict
from benchmarks.reporting.drawing import draw_bars
from benchmarks.reporting.results import Result, Row, number
from benchmarks.studies.throughput_case import Case, store_subject
from benchmarks.studies.warming import compiled_at_once
from engine.config.options import StrategyConfig
from engine.distributed.communicator import Communicator
from engine.distributed.strategies import join
from engine.faults.exit_status import DONE, run_entry_point
from inception import create_model
from launch.environment import detect
from pipelines import Dataset, open_dataset
from pipelines.preparing.stores import STORES

# A step on a CPU that takes a larger share of the budget has its batch halved, unless a batch was asked for.
_LARGEST_STEP = 1 / 12


def main(arguments: Sequence[str]) -> int:
    on_gpu = torch.cuda.is_available()
    parser = Parser(
        "Throughput of training, its parts, its limiter, and what others would give.", networks=["inception_v3"],
        batch_sizes=None, compile=["eager", "default"] if on_gpu else ["eager"], data=None, quality=85, workers=0,
        windows=5, seconds=1.5, budget=180.0, set=[],
    )  # fmt: skip
    parser.add_argument("--backends", nargs="+", default=["auto"], help="native, dali, ffcv, synthetic, auto")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["auto"])
    parser.add_argument("--peers", nargs="*", choices=LOADERS, default=tuple(LOADERS), help="whom to measure beside us")
    others = [name for name, store in STORES.items() if store.rewrite is not None]
    parser.add_argument(
        "--stores", nargs="*", choices=others, default=(), help="how else to keep the photos, beside JPEGs"
    )
    parser.add_argument("--no-trial", dest="trial", action="store_false", help="do not try what the verdict proposes")
    options = parser.parse_args(arguments)
    budget = Budget(options.budget)
    options.any_batch = options.batch_sizes is None
    options.batch_sizes = options.batch_sizes or [128 if on_gpu else 8]
    communicator = join(detect(), StrategyConfig())
    result = Result("throughput", options, quiet=not communicator.is_main)
    for network in options.networks:
        with torch.device("meta"):
            create_model(network)  # a wrong name ends here
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
    if communicator.is_main:
        _finish(result, budget, communicator)
    communicator.close()
    return DONE


@dataclass
class Comparison:
    """All cases of one network, and the peers, in turns."""

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
        if options.peers and self.alone:
            self._prepare_networks(self.workloads[first])
            self._prepare_loaders(self.workloads[first])
        if self.alone:
            self._prepare_stores(self.workloads[first])
        measured = self._measure()
        for case, workload in self.workloads.items():
            # Clocks differ from rank to rank, and all must try the same change: the first one's verdict holds.
            verdict = self.communicator.gather(case.report(workload, measured, self.limits, self.result))[0]
            if verdict is not None and verdict.change and case == first and options.trial:
                self._try(case, verdict, workload)
        for name, measurement in measured.items():
            if not name.startswith("ours"):
                part, of, setting = name.split(" | ")
                ours = measured[first.key(part)]
                share = measurement.over(ours).value if measurement.windows and ours.windows else None
                row = {"network": self.network, "part": part, "of": of, "setting": setting}
                self.result.add(row, "images/s", measurement, of_ours=share)
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

    def _prepare_networks(self, ours: Workload) -> None:
        """Others' networks that the budget admits, with a window as warm-up and one that counts."""
        precision, batch = "bf16" if ours.bf16 else "fp32", ours.batching.batch_size
        window = max(self.options.seconds, 2 * ours.step_seconds)
        for source in [source for source in peers_of(self.network) if source in self.options.peers]:
            self.result.note(compared_counts(source, ours))
            for mode in self.options.compile:
                if self.budget.admits(f"{source}'s step", 2 * window):
                    subject = network_subject(source, mode, ours, self.options.seconds)
                    self.subjects[f"step | {source} | {precision}, {mode}, batch {batch}"] = subject
        if not peers_of(self.network):
            self.result.note(f"Neither torchvision nor timm has a network named {self.network}.")

    def _prepare_loaders(self, ours: Workload) -> None:
        """Others' loaders, likewise."""
        setting = data_setting(ours, self.options)
        for name in self.options.peers:
            self.result.say(f"preparing the loader of {name}, and checking that it does equal work ...")
            prepare = partial(data_subject, name, ours, self.options, self.work / self.network, self.result)
            try:
                prepared = self.budget.prepared(f"{name}'s loader", prepare)
            except Exception as error:  # not installed, or broken on this machine: the table says so
                row = {"network": self.network, "part": "data", "of": name, "setting": setting}
                self.result.add_failure(row, "images/s", one_line(error))
                continue
            if prepared and self.budget.admits(f"{name}'s loader", 2 * prepared[1] * len(self.dataset)):
                self.subjects[f"data | {name} | {setting}"] = prepared[0]

    def _prepare_stores(self, ours: Workload) -> None:
        """The native loader on the same photos, kept as `prepare.py --store` keeps them."""
        setting = data_setting(ours, self.options)
        for store in self.options.stores:
            self.result.say(f"preparing the photos as {store} ...")
            prepare = partial(store_subject, store, ours, self.options, self.work / self.network)
            try:
                prepared = self.budget.prepared(f"the store {store}", prepare)
            except BenchmarkError as error:
                row = {"network": self.network, "part": "data", "of": f"native on {store}", "setting": setting}
                self.result.add_failure(row, "images/s", one_line(error))
                continue
            if prepared:
                self.subjects[f"data | native on {store} | {setting}"] = prepared

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


def _finish(result: Result, budget: Budget, communicator: Communicator) -> None:
    result.note(
        "Medians with 95% intervals over windows measured in turns; the first window of each subject (compilation, start of "
        f"workers, caches) and what loaders made before a window are excluded. Ranks: {communicator.world_size}."
    )
    if budget.left_out:
        left_out = ", ".join(dict.fromkeys(budget.left_out))
        result.note(f"Left out to keep the budget (--budget, in seconds): {left_out}.")
    if communicator.device.type == "cpu":
        result.note("No GPU here: power, GPU memory and GPU decoding are not measured.")
    if communicator.world_size > 1:
        result.note("Peers are measured on one rank only: run this without torchrun.")
    panels: dict[str, dict[str, Row]] = {}
    for row in [row for row in result.rows if row.metric == "images/s"]:
        part = row.case["part"]
        title = f"{row.case['network']}: {'loading alone' if part == 'data' else 'training'}"
        named = [*([] if part == "data" else [part]), row.case["of"], row.case["setting"]]
        panels.setdefault(title, {})[", ".join(named)] = row
    draw_bars(result.picture_path(), panels)
    details = "spread step_seconds_p95 first_step_seconds of_ours cpu_cores process_gib gpu_gib watts images_per_joule"
    result.finish(*details.split())


if __name__ == "__main__":
    run_entry_point(main)
