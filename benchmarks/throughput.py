"""How fast this system trains here, what holds it back, how that compares, and how far it is from the machine's limits.

    python benchmarks/throughput.py
    python benchmarks/throughput.py --networks inception_v4 --backends native dali --batch-sizes 64 128 --compile eager default
    torchrun --nproc_per_node=8 benchmarks/throughput.py --networks inception_v3 --batch-sizes 256

For every case: (a) the step on synthetic batches, (b) the loader alone, (c) both together; then a verdict in words, with
the change that it proposes measured too. Peers run in turns with ours, window by window, in this process.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

import torch
from rich.console import Console

from benchmarks.measuring.bounds import Bounds
from benchmarks.measuring.command_line import Parser, add_output_options, add_training_options, positive
from benchmarks.measuring.energy import EnergyMeter
from benchmarks.measuring.measure import Measurement, Subject, Window, alternate, one_line
from benchmarks.measuring.photos import write_photos
from benchmarks.measuring.workload import Workload
from benchmarks.peers import DATA_PEERS
from benchmarks.peers.subjects import data_subjects, network_subjects
from benchmarks.reporting.advice import Observation, Verdict, judge
from benchmarks.reporting.drawing import draw_bars
from benchmarks.reporting.results import RESULTS, Result, number
from engine.config.command_line import load_config
from engine.config.options import StrategyConfig
from engine.distributed.communicator import Communicator
from engine.distributed.strategies import join
from engine.faults.exit_status import DONE, run_entry_point
from inception import create_model
from launch.environment import detect
from pipelines import Dataset, open_dataset
from pipelines.support.cores import usable_cores

_PHOTOS = 512


@dataclass(frozen=True)
class Case:
    """One training to be measured."""

    network: str
    backend: str
    precision: str
    batch_size: int
    compile: str

    @property
    def setting(self) -> str:
        return f"{self.precision}, {self.compile}, batch {self.batch_size}"

    def arguments(self, options: Any) -> list[str]:
        """The training's options that make this case."""
        compiling = self.compile != "eager"
        return [
            "--network.name", self.network, "--data.backend", self.backend, "--precision", self.precision,
            "--data.batch_size", str(self.batch_size), "--data.workers", str(options.workers),
            "--data.path", str(options.folder), "--compile.enabled", str(compiling).lower(),
            *(["--compile.mode", self.compile] if compiling else []), *options.set,
        ]  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    communicator = join(detect(), StrategyConfig())
    say = Console(highlight=False, quiet=not communicator.is_main, soft_wrap=True).print
    result = Result("throughput", vars(options))
    with _photos(options, communicator) as folder, tempfile.TemporaryDirectory(prefix="peers-") as work:
        options.folder, options.work = folder, Path(work)
        dataset = open_dataset(folder, "train", progress=False)
        for network in options.networks:
            with torch.device("meta"):
                create_model(network)  # a wrong name ends here
        say("measuring the limits of this machine ...")
        bounds = Bounds.measure(communicator, min(0.3, options.seconds))
        for network in options.networks:
            _measure_network(network, options, communicator, dataset, bounds, result, say)
    if communicator.is_main:
        _finish(result, options, communicator)
    communicator.close()
    return DONE


def _parser() -> Parser:
    parser = Parser("Throughput of training, its parts, its limiter, and what others would give.")
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--networks", nargs="+", default=["inception_v3"], help="names of networks")
    parser.add_argument("--backends", nargs="+", default=["auto"], help="native, dali, ffcv, synthetic, auto")
    parser.add_argument("--precisions", nargs="+", choices=("auto", "fp32", "bf16"), default=["auto"])
    parser.add_argument("--batch-sizes", nargs="+", type=positive, default=[128 if on_gpu else 8], help="images a rank")
    modes = ("eager", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
    parser.add_argument("--compile", nargs="+", choices=modes, default=["eager", "default"] if on_gpu else ["eager"])
    parser.add_argument(
        "--data", type=Path, default=None, help="dataset with class folders; none: made photos, 500 x 375"
    )
    parser.add_argument(
        "--quality",
        type=positive,
        default=85,
        help="of photos that are made here, and of those that FFCV encodes anew; 85 gives 46 kB, 97 gives 112 kB",
    )
    parser.add_argument("--workers", type=int, default=0, help="decoding threads or processes; 0: the cores of a rank")
    parser.add_argument("--windows", type=positive, default=5, help="measured windows of every subject")
    parser.add_argument("--seconds", type=float, default=1.5, help="of a window, about")
    peers = tuple(DATA_PEERS)
    parser.add_argument(
        "--peers", nargs="*", choices=peers, default=peers, help="whom to measure beside us; none: nobody"
    )
    parser.add_argument(
        "--no-trial", dest="trial", action="store_false", help="do not measure what the verdict proposes"
    )
    add_training_options(parser)
    add_output_options(parser, RESULTS)
    return parser


@contextlib.contextmanager
def _photos(options: Any, communicator: Communicator) -> Iterator[Path]:
    """The folder to read: the one given, or made photos that go away again."""
    if options.data is not None:
        yield options.data
        return
    with tempfile.TemporaryDirectory(prefix="photos-") as mine:
        folder = Path(communicator.gather(mine)[0])
        if communicator.is_main:
            count = max(_PHOTOS, 4 * max(options.batch_sizes) * communicator.world_size)
            write_photos(folder, count, quality=options.quality)
        communicator.barrier()
        yield folder
        communicator.barrier()


def _measure_network(
    network: str, options: Any, communicator: Communicator, dataset: Dataset, bounds: Bounds, result: Result, say: Any
) -> None:
    """Measures all cases of one network, and the peers, in turns."""
    cases = [
        Case(network, *rest)
        for rest in product(options.backends, options.precisions, options.batch_sizes, options.compile)
    ]
    workloads: dict[Case, Workload] = {}
    subjects: dict[str, Subject] = {}
    for case in cases:
        say(f"preparing {network}: {case.setting}, {case.backend} loader ...")
        try:
            workloads[case] = _workload(case, options, communicator, dataset)
            subjects |= _subjects(case, workloads[case], options)
        except Exception as error:
            if communicator.world_size > 1 or len(cases) == 1:
                raise
            result.add_failure(_row(case, "step"), "images/s", one_line(error))
    if not workloads:
        return
    first = next(iter(workloads))
    reference = workloads[first]
    if options.peers and communicator.world_size == 1:
        say("preparing the peers, and checking that they do equal work ...")
        subjects |= network_subjects(network, reference, options, result)
        subjects |= data_subjects(reference, options, options.work / network, result)
    say(f"measuring {len(subjects)} subjects in turns, {options.windows} windows each after one of warm-up ...")
    measured = alternate(subjects, windows=options.windows, tolerant=communicator.world_size == 1)
    for case, workload in workloads.items():
        # Clocks differ from rank to rank, and all must try the same change: the first one's verdict holds.
        verdict = communicator.gather(_report(case, workload, measured, bounds, result))[0]
        if verdict is None or case != first or not options.trial or not verdict.change:
            continue
        if "compile.enabled" in verdict.change and workload.device.type == "cpu":
            result.note("Not tried, since compiling takes minutes on a CPU: --compile eager default measures both.")
        else:
            _try(case, verdict, workload, options, communicator, dataset, result, say)
    for name, measurement in measured.items():
        if not name.startswith("ours"):
            part, of, setting = name.split(" | ")
            case_row = {"network": network, "part": part, "of": of, "setting": setting}
            result.add(case_row, "images/s", measurement, of_ours=_of_ours(measurement, part, first, measured))
    for workload in workloads.values():
        workload.close()


def _workload(case: Case, options: Any, communicator: Communicator, dataset: Dataset, *extra: str) -> Workload:
    config = load_config([*case.arguments(options), *extra])
    return Workload(config, communicator, dataset, num_classes=1000)


def _subjects(case: Case, workload: Workload, options: Any) -> dict[str, Subject]:
    steps = workload.steps_in(options.seconds)
    subjects = {
        _key(case, "step"): workload.timed_step(steps),
        _key(case, "data"): workload.timed_data(options.seconds),
        _key(case, "end to end"): workload.timed_end_to_end(steps),
    }
    if workload.communicator.world_size > 1:
        subjects[_key(case, "without exchange")] = workload.timed_step_without_exchange(steps)
    return subjects


def _key(case: Case, part: str) -> str:
    return f"ours | {part} | {case}"


def _row(case: Case, part: str, workload: Workload | None = None) -> dict[str, str]:
    """What identifies a row; with a workload, "auto" is replaced by what it chose."""
    backend = case.backend if workload is None else workload.loader.backend
    precision = case.precision if workload is None else "bf16" if workload.bf16 else "fp32"
    setting = f"{precision}, {case.compile}, batch {case.batch_size}"
    return {"network": case.network, "part": part, "of": f"ours, {backend}", "setting": setting}


def _of_ours(measurement: Measurement, part: str, first: Case, measured: dict[str, Measurement]) -> float | None:
    """How fast a peer is, ours being 1."""
    ours = measured[_key(first, part)]
    return measurement.over(ours).value if measurement.windows and ours.windows else None


def _report(
    case: Case, workload: Workload, measured: dict[str, Measurement], bounds: Bounds, result: Result
) -> Verdict | None:
    """Adds a case's rows and its verdict. Every rank must call it: rates of loaders are added up over the ranks."""
    parts = {part: measured[_key(case, part)] for part in ("step", "data", "end to end")}
    data = _summed(parts["data"], workload.communicator)
    memory = _memory(workload)
    extra = _extra(case, measured)
    rates = {}
    for part, measurement in (parts | {"data": data} | extra).items():
        details: dict[str, Any] = {"workers": workload.config.data.workers or None}
        if part == "step":
            details |= memory | {"first_step_seconds": workload.first_step_seconds}
        row = result.add(_row(case, part, workload), "images/s", measurement, **details)
        rates[part] = row.value
    if not all(rates.values()):
        return None
    bound, bound_by = bounds.of(workload)
    verdict = judge(
        Observation(
            step=parts["step"].rate.median,
            data=data.rate.median,
            end_to_end=parts["end to end"].rate.median,
            waiting=sorted(workload.waiting)[len(workload.waiting) // 2],
            bound=bound,
            bound_by=bound_by,
            without_exchange=rates.get("without exchange"),
            host_share=workload.host_share(),
            on_cpu=workload.device.type == "cpu",
            workers=workload.config.data.workers or usable_cores() // workload.communicator.local_world_size,
            cores=usable_cores() // workload.communicator.local_world_size,
            batch_size=case.batch_size,
            compiled=workload.config.compile.enabled,
            bf16=workload.bf16,
            bf16_is_faster=bounds.bf16_is_faster,
        )
    )
    share = parts["end to end"].over(parts["step"])
    result.add(
        _row(case, "end to end", workload), "share of the step's speed", share.value, interval=(share.low, share.high)
    )
    result.add(
        _row(case, "step", workload), "share of the machine's bound", parts["step"].rate.median / bound, bound=bound
    )
    named = _row(case, "step", workload)
    result.note(f"{case.network}, {named['setting']}, {workload.loader.backend} loader. {verdict.words}")
    return verdict


def _extra(case: Case, measured: dict[str, Measurement]) -> dict[str, Measurement]:
    key = _key(case, "without exchange")
    return {"without exchange": measured[key]} if key in measured else {}


def _summed(measurement: Measurement, communicator: Communicator) -> Measurement:
    """The loaders of all ranks together: their rates add up, window by window."""
    if communicator.world_size == 1:
        return measurement
    together = Measurement(measurement.name, warmup_seconds=measurement.warmup_seconds)
    for windows in zip(*communicator.gather(measurement.windows)):
        longest = max(window.seconds for window in windows)
        cores = sum(window.cores for window in windows)
        together.windows.append(Window(sum(w.rate for w in windows) * longest, longest, windows[0].steps, cores))
    return together


def _memory(workload: Workload) -> dict[str, float | None]:
    """Peak memory of a step and its energy, measured apart from the timing."""
    device = workload.device
    if device.type != "cuda":
        return {"process_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    torch.cuda.reset_peak_memory_stats()
    meter = EnergyMeter(device)
    steps = workload.steps_in(1.0)
    window = workload.timed_step(steps)()
    joules = meter.joules()
    return {
        "gpu_gib": torch.cuda.max_memory_allocated() / 2**30,
        "watts": joules / window.seconds if joules else None,
        "images_per_joule": window.units / workload.communicator.world_size / joules if joules else None,
    }


def _try(
    case: Case, verdict: Verdict, before: Workload, options: Any, communicator: Communicator, dataset: Dataset, result: Result,
    say: Any,
) -> None:  # fmt: skip
    """Measures what the verdict proposes beside what it was proposed for, and says what it brought."""
    change = [text for key, value in verdict.change.items() for text in (f"--{key}", value)]
    say(f"trying {' '.join(change)} ...")
    after = None
    try:
        after = _workload(case, options, communicator, dataset, *change)
        subjects = {
            "before": before.timed_end_to_end(before.steps_in(options.seconds)),
            "after": after.timed_end_to_end(after.steps_in(options.seconds)),
        }
        measured = alternate(subjects, windows=max(3, options.windows // 2 + 1), tolerant=communicator.world_size == 1)
    except Exception as error:
        if communicator.world_size > 1:
            raise
        result.note(f"Tried {' '.join(change)}: {one_line(error)}")
        return
    finally:
        if after is not None:
            after.close()
    identity = _row(case, "end to end", before)
    identity["setting"] += f", {' '.join(change)}"
    row = result.add(identity, "images/s", measured["after"])
    if row.value is None:
        result.note(f"Tried {' '.join(change)}: {row.failure}")
    else:
        ratio = measured["after"].over(measured["before"])
        result.note(f"Tried {' '.join(change)}: {number(row.value)} images/s end to end, {ratio} of what it was.")


def _finish(result: Result, options: Any, communicator: Communicator) -> None:
    result.note(
        "Medians with 95% intervals over windows measured in turns; the first window of each subject (compilation, start of "
        f"workers, caches) and the first batches of every window are excluded. Ranks: {communicator.world_size}."
    )
    if communicator.device.type == "cpu":
        result.note("No GPU here: power, GPU memory and GPU decoding are not measured.")
    if communicator.world_size > 1:
        result.note("Peers are measured on one rank only: run this without torchrun.")
    shown = [row for row in result.rows if row.metric == "images/s"]
    loading = [row for row in shown if row.case["part"] == "data"]
    training = [row for row in shown if row not in loading]
    draw_bars(result.picture_path(options.output), {"Training": training, "Loading alone": loading})
    result.print(
        (
            "spread",
            "step_seconds_p95",
            "first_step_seconds",
            "of_ours",
            "cpu_cores",
            "process_gib",
            "gpu_gib",
            "watts",
            "images_per_joule",
        )
    )
    print(f"Written: {result.save(options.output)}")


if __name__ == "__main__":
    run_entry_point(main)
