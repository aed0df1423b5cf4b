"""One training of throughput.py: how it is made, what is measured of it, and the rows and the verdict that follow."""

import resource
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measuring import Measurement, Subject, Window, as_arguments, drained
from benchmarks.measuring.command_line import compiled
from benchmarks.measuring.limits import Limits, bound_of
from benchmarks.measuring.photos import prepare_shards
from benchmarks.measuring.workload import Workload
from benchmarks.reporting.advice import Observation, Verdict, judge
from benchmarks.reporting.results import Result
from engine.config.command_line import load_config
from engine.distributed.communicator import Communicator
from engine.monitoring.hardware import Hardware
from pipelines import Dataset, TrainPlan, build_loader, open_dataset
from pipelines.support.cores import usable_cores


@dataclass(frozen=True)
class Case:
    """A combination of what throughput.py is asked for."""

    network: str
    backend: str
    precision: str
    batch_size: int
    compile: str

    def __str__(self) -> str:
        return f"{self.network}, {self.backend}, {self.precision}, {self.compile}, batch {self.batch_size}"

    def workload(self, options: Any, communicator: Communicator, dataset: Dataset, *extra: str) -> Workload:
        """What is trained, with `extra` options of the training."""
        settings = {
            "network.name": self.network, "data.backend": self.backend, "precision": self.precision,
            "data.batch_size": self.batch_size, "data.workers": options.workers, "data.path": options.folder,
            **compiled(self.compile),
        }  # fmt: skip
        return Workload(load_config([*as_arguments(settings), *options.set, *extra]), communicator, dataset)

    def row(self, part: str, workload: Workload | None = None) -> dict[str, str]:
        """What identifies a row; with a workload, "auto" is replaced by what it chose."""
        backend = self.backend if workload is None else workload.loader.backend
        precision = self.precision if workload is None else "bf16" if workload.bf16 else "fp32"
        setting = f"{precision}, {self.compile}, batch {self.batch_size}"
        return {"network": self.network, "part": part, "of": f"ours, {backend}", "setting": setting}

    def key(self, part: str) -> str:
        """The name of a part among subjects."""
        return f"ours | {part} | {self}"

    def subjects(self, workload: Workload, seconds: float) -> tuple[dict[str, Subject], float]:
        """The parts to be measured in windows of about `seconds`, and the seconds that a window of each takes."""
        steps = workload.steps_in(seconds)
        subjects = {
            self.key("step"): workload.timed_step(steps),
            self.key("data"): workload.timed_data(seconds),
            self.key("end to end"): workload.timed_end_to_end(steps),
        }
        if workload.communicator.world_size > 1:
            subjects[self.key("without exchange")] = workload.timed_step(steps, exchange=False)
        return subjects, seconds + workload.step_seconds * (2 + (len(subjects) - 1) * steps)

    def report(
        self, workload: Workload, measured: dict[str, Measurement], limits: Limits, result: Result
    ) -> Verdict | None:
        """Adds the rows, and the verdict if all parts could be measured. Every rank must call it: rates of loaders are added
        up over the ranks."""
        parts = {part: measured[self.key(part)] for part in ("step", "data", "end to end", "without exchange")
                 if self.key(part) in measured}  # fmt: skip
        parts["data"] = _summed(parts["data"], workload.communicator)
        step = _memory(workload) | {"first_step_seconds": workload.first_step_seconds}
        workers = workload.config.data.workers or None
        for part, measurement in parts.items():
            more = step if part == "step" else {}
            result.add(self.row(part, workload), "images/s", measurement, workers=workers, **more)
        if not all(measurement.windows for measurement in parts.values()):
            return None
        rates = {part: measurement.rate.median for part, measurement in parts.items()}
        bound, bound_by = bound_of(workload, limits)
        cores = workload.communicator.cores
        seen = Observation(
            step=rates["step"], data=rates["data"], end_to_end=rates["end to end"],
            waiting=sorted(workload.waiting)[len(workload.waiting) // 2], bound=bound, bound_by=bound_by,
            without_exchange=rates.get("without exchange"), host_share=workload.host_share(),
            on_cpu=workload.device.type == "cpu", workers=workers or cores, cores=cores, batch_size=self.batch_size,
            compiled=workload.config.compile.enabled, bf16=workload.bf16, bf16_is_faster=limits.bf16_is_faster,
        )  # fmt: skip
        verdict, row = judge(seen), self.row("step", workload)
        fed = parts["end to end"].over(parts["step"])
        result.add(self.row("end to end", workload), "share of the step's speed", fed)
        result.add(row, "share of the machine's bound", rates["step"] / bound, bound=bound)
        result.note(f"{self.network}, {row['setting']}, {workload.loader.backend} loader. {verdict.words}")
        return verdict


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
    if workload.device.type != "cuda":
        return {"process_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    hardware = Hardware(workload.communicator)
    window = workload.timed_step(workload.steps_in(1.0))()
    seen = hardware.row(round(window.units))
    hardware.close()
    names = {"gpu_gib": "gpu_memory_gib", "watts": "gpu_power_watts", "images_per_joule": "images_per_joule"}
    return {ours: seen.get(theirs) for ours, theirs in names.items()}


def store_subject(store: str, ours: Workload, options: Any, work: Path) -> tuple[Subject, float]:
    """The native loader, cropping as ours does, on the photos as a store keeps them, which are prepared in `work`, and the
    seconds of a window. Raises BenchmarkError where they cannot be."""
    data, folder = ours.config.data, work / store
    work.mkdir(parents=True, exist_ok=True)
    prepare_shards(options.folder, folder, "--store", store)
    dataset = open_dataset(folder, "train", progress=False)
    batch, workers = ours.batching.batch_size, options.workers or usable_cores()
    plan = TrainPlan(len(dataset), batch, seed=1, scale=data.crop_scale, ratio=data.crop_ratio, flip=data.flip)
    shape = {"batch_size": batch, "resolution": ours.resolution, "workers": workers, "device": ours.device}
    passes = partial(build_loader, dataset, plan, "native", **shape)
    return drained(passes, ahead=data.prefetch + 1, seconds=options.seconds), options.seconds
