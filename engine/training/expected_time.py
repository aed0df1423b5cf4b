"""How long a run will take, from the newest measurement of its training on this machine; no measurement, no number.

Measurements are the files that `python benchmarks/throughput.py` leaves in benchmarks/results, in the clone or where the
command is given. One counts that was made on a machine of the same make, of the same network, image size, precision,
compilation and number of processes, with the same options of the network.
"""

import json
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.config.options import Config, flat
from engine.runs.environment_record import describe_machine
from launch.environment import Environment

_ROOT = Path(__file__).resolve().parents[2]
_PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16"}
# Options that change the step's speed, beside those that stand in a result's rows.
_OF_SPEED = (
    "compile.scope", "compile.combo_kernels", "distillation.teacher", "network.auxiliary", "network.batch_norm", "network.freeze",
    "network.freeze_batch_norm", "network.fuse", "network.fused_norm", "network.pad_channels", "network.width", "strategy.name",
    "strategy.sync_batchnorm",
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """A training's speed, end to end: images a second over all processes, with this loader and batch."""

    rate: float
    backend: str
    batch: int
    file: Path
    time: str


def time_expected(
    config: Config, dtype: torch.dtype, sizes: list[int], images: int, environment: Environment,
    *, on_cpu: bool, own_size: int, backend: str, batch: int,
) -> str:  # fmt: skip
    """The time of a run over `images` an epoch, of the largest of `sizes` pixels a side, in one line that says by what
    measurement; or which command measures it. `own_size`: the network's [pixels]; of several measurements the one with this
    loader `backend` and micro-batch counts, then the newest."""
    ranks, precision = environment.world_size, _PRECISIONS.get(dtype)
    mode = config.compile.mode if config.compile.enabled else "eager"
    what = f"{config.network.name}, {precision}, {mode}, {sizes[-1]} pixels, {ranks} process{'es' if ranks > 1 else ''}"
    if precision is None:
        return "time: not known, for no benchmark measures fp16"
    if on_cpu and describe_machine()["gpus"]:
        return "time: not known, for benchmarks measure this machine's GPU"
    if ranks > environment.local_world_size:
        return "time: not known, for several nodes are measured by sbatch slurm/throughput.sbatch alone"
    own = _changed(flat(config.to_dict()))
    wanted = (config.network.name, f"{precision}, {mode}, batch ", sizes[-1], own_size, ranks, own)
    found = [measured for file in _files() for measured in _measured(file, *wanted)]
    if not found:
        command = _command(config, precision, mode, sizes[-1] if sizes[-1] != own_size else None, ranks, own)
        return f"time: not measured on this machine ({what}); this does it: {command}"
    newest = max(found, key=lambda one: (one.batch == batch, one.backend == backend, one.time))
    hours = images * config.schedule.epochs / newest.rate / 3600
    smaller = "" if len(sizes) == 1 else "; at the full size throughout, so less"
    return (
        f"time, about: {_in_words(hours)} = {config.schedule.epochs} epochs of {images:,} images at {newest.rate:,.3g} a second, "
        f"as measured on a machine like this ({what}, {newest.backend} loader, batch {newest.batch}; {newest.file.name}), "
        f"without evaluations and starting{smaller}"
    )


def _files() -> list[Path]:
    """What throughput.py left."""
    folders = dict.fromkeys((folder / "benchmarks" / "results").resolve() for folder in (_ROOT, Path()))
    return sorted({file for folder in folders for file in folder.rglob("throughput-*.json")})


def _measured(file: Path, *wanted: Any) -> list[Measured]:
    """The speeds in a file that were measured as the run is to be; none in one of somebody else's, or that is cut off."""
    try:
        return list(_rows(file, json.loads(file.read_text()), *wanted))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _rows(
    file: Path,
    result: dict[str, Any],
    network: str,
    setting: str,
    size: int,
    own_size: int,
    ranks: int,
    own: dict[str, str],
) -> Iterator[Measured]:
    """The speeds of whole trainings in a result on a machine like this that were measured as this run is to be."""
    given = result["options"].get("set") or []
    options = dict(zip((key.lstrip("-") for key in given[::2]), given[1::2]))
    started = re.match(r"torchrun --nproc_per_node=(\d+)", result["command"])
    if result["machine"]["id"] != describe_machine()["id"] or _changed(options.items()) != own:
        return
    if int(started[1] if started else 1) != ranks or (int(options.get("data.resolution", 0)) or own_size) != size:
        return
    for row in result["rows"]:
        case, batch = row["case"], row["case"].get("setting", "").removeprefix(setting)
        if (case.get("network"), case.get("part"), row["metric"]) != (network, "end to end", "images/s"):
            continue
        # Behind the batch of other rows stands an option that was tried.
        if row["value"] and case["of"].startswith("ours, ") and batch.isdecimal():
            yield Measured(row["value"], case["of"].removeprefix("ours, "), int(batch), file, result["time"])


def _changed(options: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """Those of some options that change a step's speed and are not as usual, as a command line has them."""
    usual = {key: _text(value) for key, value in flat(Config().to_dict()) if key in _OF_SPEED}
    return {key: _text(value) for key, value in options if key in usual and _text(value) != usual[key]}


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    try:
        return f"{float(value):g}"  # 1 and 1.0 are one
    except ValueError:
        return str(value)


def _command(config: Config, precision: str, mode: str, size: int | None, ranks: int, own: dict[str, str]) -> str:
    """The command that measures this run, of images of `size` where that is not the network's own."""
    start = f"torchrun --nproc_per_node={ranks}" if ranks > 1 else "python"
    words = ["--networks", config.network.name, "--precisions", precision, "--compile", mode]
    words += ["--batch-sizes", str(config.data.batch_size)] if config.data.batch_size != "auto" else []
    pairs = [f"{key}={value}" for key, value in (own | ({} if size is None else {"data.resolution": size})).items()]
    words += ["--set", *pairs] if pairs else []
    return f"{start} benchmarks/throughput.py {shlex.join(words)}"


def _in_words(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    if hours >= 1:
        return f"{hours:.1f} hours"
    return f"{hours * 60:.1f} minutes" if hours * 60 >= 1 else f"{hours * 3600:.0f} seconds"
