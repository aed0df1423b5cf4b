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
from inception import create_model
from launch.environment import Environment

_ROOT = Path(__file__).resolve().parents[2]
_PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16"}
# Options that change the step's speed, beside those that stand in a result's rows.
_OF_SPEED = ("network.width", "network.auxiliary", "network.batch_norm", "network.fuse", "network.fused_norm",
             "network.pad_channels", "network.freeze", "compile.scope", "compile.combo_kernels")  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """A training's speed, end to end: images a second over all processes, with this loader and batch."""

    rate: float
    backend: str
    batch: int
    file: Path
    time: str


def time_expected(config: Config, dtype: torch.dtype, sizes: list[int], images: int, environment: Environment) -> str:
    """The time of a run over `images` an epoch, of the largest of `sizes` pixels a side, in one line that says by what
    measurement; or which command measures it."""
    ranks, precision = environment.world_size, _PRECISIONS.get(dtype)
    mode = config.compile.mode if config.compile.enabled else "eager"
    what = f"{config.network.name}, {precision}, {mode}, {sizes[-1]} pixels, {ranks} process{'es' if ranks > 1 else ''}"
    if precision is None:
        return "time: not known, for no benchmark measures fp16"
    if ranks > environment.local_world_size:
        return "time: not known, for several nodes are measured by sbatch slurm/throughput.sbatch alone"
    own = _changed(flat(config.to_dict()))
    found = [
        measured
        for result in _results()
        for measured in _rows(result, config.network.name, f"{precision}, {mode}, batch ", sizes[-1], ranks, own)
    ]
    if not found:
        command = _command(config, precision, mode, sizes, ranks, own)
        return f"time: not measured on this machine ({what}); this does it: {command}"
    batch = config.data.batch_size
    newest = max(found, key=lambda one: (one.batch == batch, one.backend == config.data.backend, one.time))
    hours = images * config.schedule.epochs / newest.rate / 3600
    smaller = "" if len(sizes) == 1 else "; at the full size throughout, so less"
    return (
        f"time, about: {_in_words(hours)} = {config.schedule.epochs} epochs of {images:,} images at {newest.rate:,.3g} a second, "
        f"as measured on a machine like this ({what}, {newest.backend} loader, batch {newest.batch}; {newest.file.name}), "
        f"without evaluations and starting{smaller}"
    )


def _results() -> Iterator[dict[str, Any]]:
    """What throughput.py measured on machines like this."""
    machine = describe_machine()["id"]
    folders = dict.fromkeys((folder / "benchmarks" / "results").resolve() for folder in (_ROOT, Path()))
    for file in sorted({file for folder in folders for file in folder.rglob("throughput-*.json")}):
        try:
            result = json.loads(file.read_text())
            if result["machine"]["id"] == machine:
                yield {**result, "file": file}
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a file of somebody else's, or cut off: no measurement


def _rows(
    result: dict[str, Any], network: str, setting: str, size: int, ranks: int, own: dict[str, str]
) -> Iterator[Measured]:
    """The speeds of whole trainings in a result that were measured as this run is to be."""
    given = result["options"].get("set") or []
    options = dict(zip((key.lstrip("-") for key in given[::2]), given[1::2]))
    started = re.match(r"torchrun --nproc_per_node=(\d+)", result["command"])
    if int(started[1] if started else 1) != ranks or _changed(options.items()) != own:
        return
    if (int(options.get("data.resolution", 0)) or _size_of(network)) != size:
        return
    for row in result["rows"]:
        case = row["case"]
        if (case.get("network"), case.get("part"), row["metric"]) != (network, "end to end", "images/s") or not row[
            "value"
        ]:
            continue
        if case["of"].startswith("ours, ") and case["setting"].startswith(setting):
            batch = int(case["setting"].removeprefix(setting))
            yield Measured(row["value"], case["of"].removeprefix("ours, "), batch, result["file"], result["time"])


def _changed(options: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """Those of some options that change a step's speed and are not as usual, as a command line has them."""
    usual = {key: _text(value) for key, value in flat(Config().to_dict()) if key in _OF_SPEED}
    return {key: _text(value) for key, value in options if key in usual and _text(value) != usual[key]}


def _text(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _size_of(network: str) -> int:
    with torch.device("meta"):
        return create_model(network).input_size


def _command(config: Config, precision: str, mode: str, sizes: list[int], ranks: int, own: dict[str, str]) -> str:
    """The command that measures this run."""
    start = f"torchrun --nproc_per_node={ranks}" if ranks > 1 else "python"
    words = ["--networks", config.network.name, "--precisions", precision, "--compile", mode]
    words += ["--batch-sizes", str(config.data.batch_size)] if config.data.batch_size != "auto" else []
    size = {} if sizes[-1] == _size_of(config.network.name) else {"data.resolution": sizes[-1]}
    pairs = [f"{key}={value}" for key, value in (own | size).items()]
    words += ["--set", *pairs] if pairs else []
    return f"{start} benchmarks/throughput.py {shlex.join(words)}"


def _in_words(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    if hours >= 1:
        return f"{hours:.1f} hours"
    return f"{hours * 60:.1f} minutes" if hours * 60 >= 1 else f"{hours * 3600:.0f} seconds"
