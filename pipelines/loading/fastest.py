"""The backend that "auto" stands for: the fastest on this machine with this dataset, measured once and remembered."""

import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from pipelines.datasets.dataset import Dataset
from pipelines.loading.loader import Loader
from pipelines.loading.task import Options
from pipelines.plan.plan import Plan
from pipelines.support.cache import user_cache
from pipelines.support.cores import usable_cores
from pipelines.support.errors import DataError
from pipelines.support.locks import machine_lock

SAMPLES = 320  # measured in each round; with fewer images nothing is
_ROUNDS = 2  # the better one counts: the first also warms the files' cache
_ANOTHER_CHANCE = 600.0  # seconds after which a backend that failed is tried again
_MARGIN = 1.1  # how much faster another backend must be to be taken instead of native
_PACKAGES = ("torch", "torchvision", "nvidia-dali-cuda120", "nvidia-dali-cuda130", "ffcv")

Make = Callable[[Dataset, Plan, Options], Loader]


def choose(candidates: Mapping[str, Make], dataset: Dataset, plan: Plan, options: Options) -> tuple[str, str]:
    """The name of the backend to take, and why, which names those that fail here.

    candidates: the backends that could be, "native" among them. One process of a machine measures while the others
    wait; the answer is kept in the user's cache for this machine, dataset, device, image size and software.
    """
    if len(candidates) == 1:
        return "native", "no other backend can be used"
    file = user_cache() / f"choice-{_key(candidates, dataset, options)}.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with machine_lock(file.with_suffix(".lock"), announce=False):
            if not _holds(file):
                _write(file, _measured(candidates, dataset, plan, options))
            found = json.loads(file.read_text())
    except (OSError, ValueError):  # a cache that cannot be used costs only the measurement
        found = _measured(candidates, dataset, plan, options)
    return _verdict(found, options.resolution)


def first_line(error: BaseException) -> str:
    """An error of somebody else's library in one line."""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}".removesuffix(": ")


def _holds(file: Path) -> bool:
    """Whether the file holds an answer that counts: a backend that failed may be repaired, and soon has another chance."""
    if not file.exists():
        return False
    failed = any(isinstance(rate, str) for rate in json.loads(file.read_text()).values())
    return not failed or time.time() - file.stat().st_mtime < _ANOTHER_CHANCE


def _measured(candidates: Mapping[str, Make], dataset: Dataset, plan: Plan, options: Options) -> dict[str, float | str]:
    """Each backend's images a second, or why it fails."""
    found: dict[str, float | str] = {}
    for name, make in candidates.items():
        try:
            found[name] = _rate(make, dataset, plan, options)
        except Exception as error:  # an optional package may fail in any way
            found[name] = first_line(error)
    return found


def _verdict(found: dict[str, float | str], resolution: int) -> tuple[str, str]:
    rates = {name: rate for name, rate in found.items() if not isinstance(rate, str)}
    best = max(rates, key=lambda name: rates[name], default="native")
    if rates.get(best, 0.0) < _MARGIN * rates.get("native", 0.0):
        best = "native"
    listed = ", ".join(f"{name} {rate:,.0f}" for name, rate in sorted(rates.items(), key=lambda item: -item[1]) if rate)
    failed = "".join(f"; {name} fails ({why})" for name, why in found.items() if isinstance(why, str))
    return best, f"images/s of {resolution} pixels on this machine: {listed}{failed}"


def _key(candidates: Mapping[str, Make], dataset: Dataset, options: Options) -> str:
    """What the answer depends on."""
    device = torch.cuda.get_device_name(options.device) if options.device.type == "cuda" else options.device.type
    software = [_version(package) for package in _PACKAGES]
    words = [socket.gethostname(), usable_cores(), options.workers, device, dataset.fingerprint, options.resolution]
    return sha256(json.dumps([words, software, sorted(candidates)]).encode()).hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _rate(make: Make, dataset: Dataset, plan: Plan, options: Options) -> float:
    """Images a second of a backend that reads ahead, after its first batch; 0 for one that cannot read this dataset."""
    options = replace(options, batch_size=min(options.batch_size, SAMPLES // 5), skip=True)
    try:
        with make(dataset, plan, options) as loader:
            return max(_round(loader) for _ in range(_ROUNDS))
    except DataError:
        return 0.0


def _round(loader: Loader) -> float:
    loader.set_epoch(0)
    seen, began = 0, 0.0
    for batch in loader:
        if began:
            seen += len(batch)
        else:
            began = time.perf_counter()
        if seen >= SAMPLES:
            break
    if loader.device.type == "cuda":
        torch.cuda.synchronize(loader.device)
    return seen / (time.perf_counter() - began)


def _write(file: Path, rates: dict[str, float | str]) -> None:
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(rates))
    temporary.replace(file)
