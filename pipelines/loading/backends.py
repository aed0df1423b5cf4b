"""The backends by name, and the choice among them."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from pipelines.datasets.dataset import Dataset
from pipelines.loading.fastest import SAMPLES, Make, choose, first_line
from pipelines.loading.loader import Loader
from pipelines.loading.task import Options
from pipelines.plan.plan import Plan
from pipelines.support.cores import usable_cores
from pipelines.support.errors import DataError, nearest

_ADVICE = "install it again, or choose another with --data.backend"
_ON_ERROR = ("raise", "skip")
_OF_ENCODED_IMAGES = ("dali", "ffcv")  # which read no planes


@dataclass(frozen=True)
class Backend:
    """Where a backend lives. loader: what makes its loader there; needs: the module of its optional dependency; extra: what to
    install that with."""

    module: str
    loader: str
    needs: str = ""
    extra: str = ""

    def installed(self) -> bool:
        try:
            return not self.needs or find_spec(self.needs) is not None
        except (ImportError, ValueError):  # the package that would hold it is absent, or broken
            return False


BACKENDS = {
    "native": Backend("pipelines.loading.native", "native_loader"),
    "dali": Backend("pipelines.loading.dali", "DaliLoader", "nvidia.dali", "dali"),
    "ffcv": Backend("pipelines.loading.ffcv", "FfcvLoader", "ffcv", "ffcv"),
    "synthetic": Backend("pipelines.loading.synthetic", "SyntheticLoader"),
}


def list_backends() -> list[str]:
    """The names that `build_loader` takes beside "auto", installed or not."""
    return list(BACKENDS)


def build_loader(
    dataset: Dataset,
    plan: Plan,
    backend: str = "auto",
    device: str | torch.device = "cpu",
    *,
    batch_size: int,
    resolution: int,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    prefetch: int = 2,
    on_error: str = "raise",
    settings: Mapping[str, Any] | None = None,
) -> Loader:
    """The loader that carries out `plan` over `dataset` on `device` for one rank of `world_size`.

    Of each global batch of n samples rank r gets those at r*n//world_size to (r+1)*n//world_size, cut evenly into micro-batches
    of at most `batch_size` images of resolution x resolution pixels, as many as the largest share needs; where the plan mixes
    pairs, both cuts are between pairs. workers: decoding threads (0: every core this process
    may use); prefetch: batches prepared ahead. on_error: "raise" DataError on an image that cannot be read, or "skip":
    training takes the next readable one of the plan in its place, evaluation marks it with label -1.
    backend: "auto" takes the fastest on this machine, measured once and told by loader.reason. settings: what only the
    backend knows, such as the fields of `pipelines.loading.dali.Settings`. DataError when a setting or the data makes no sense.
    """
    if backend != "auto" and backend not in BACKENDS:
        choices = ", ".join(["auto", *BACKENDS])
        raise DataError(f"unknown backend {backend!r}{nearest(backend, BACKENDS)}; choose from {choices}")
    if on_error not in _ON_ERROR:
        raise DataError(f"on_error must be one of {', '.join(_ON_ERROR)}, not {on_error!r}")
    for name, value, least in (("batch_size", batch_size, 1), ("resolution", resolution, 1), ("world_size", world_size, 1),
                               ("workers", workers, 0), ("prefetch", prefetch, 1)):  # fmt: skip
        if value < least:
            raise DataError(f"{name} must be at least {least}, not {value}")
    if not 0 <= rank < world_size:
        raise DataError(f"rank {rank} is not among {world_size} ranks")
    if plan.length != len(dataset):
        raise DataError(f"the plan is made for {plan.length} samples, but {dataset.path} has {len(dataset)}")
    options = Options(
        device=_numbered(torch.device(device)),
        batch_size=batch_size,
        resolution=resolution,
        rank=rank,
        world_size=world_size,
        workers=workers or usable_cores(),
        prefetch=prefetch,
        skip=on_error == "skip",
        settings=settings or {},
    )
    if backend == "auto":
        return _fastest(dataset, plan, options)
    if backend in _OF_ENCODED_IMAGES and dataset.holds_planes:
        raise DataError(
            f"backend {backend!r} decodes images, and {dataset.path} holds planes (.y4m), with nothing to decode: "
            "choose --data.backend native"
        )
    try:
        loader = load_backend(backend)(dataset, plan, options)
    except DataError:
        raise
    except Exception as error:
        if not BACKENDS[backend].needs:
            raise
        raise DataError(f"backend {backend!r} fails here: {first_line(error)}; {_ADVICE}") from error
    loader.reason = "asked for" + loader.remark
    return loader


def _numbered(device: torch.device) -> torch.device:
    """`device` with its number: "cuda" is this thread's current one, which other threads do not know of."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _fastest(dataset: Dataset, plan: Plan, options: Options) -> Loader:
    """The loader of the fastest backend; where one turns out to be broken, of the next, which `reason` says."""
    names = _candidates(dataset)
    few = "too few images to measure others" if plan.length < SAMPLES and len(names) > 1 else ""
    makers, broken = _load_all(["native"] if few else names)
    while True:
        name, reason = choose(makers, dataset, plan, options)
        try:
            loader = makers[name](dataset, plan, options)
        except DataError:
            raise
        except Exception as error:  # an optional package may fail in any way
            if name == "native":
                raise
            broken[name] = first_line(error)
            del makers[name]
            continue
        failed = "".join(f"; {name} cannot be used ({why})" for name, why in broken.items())
        alone = "native alone reads planes" if dataset.holds_planes else reason
        loader.reason = (few or alone) + failed + loader.remark
        return loader


def _candidates(dataset: Dataset) -> list[str]:
    """What "auto" chooses among: the installed backends that read data."""
    left_out = ("synthetic", *(_OF_ENCODED_IMAGES if dataset.holds_planes else ()))
    return [name for name, backend in BACKENDS.items() if name not in left_out and backend.installed()]


def _load_all(names: list[str]) -> tuple[dict[str, Make], dict[str, str]]:
    """What makes their loaders, and those that are broken with why. Importing DALI takes a second."""
    makers: dict[str, Make] = {}
    broken: dict[str, str] = {}
    for name in names:
        try:
            makers[name] = load_backend(name)
        except Exception as error:  # importing somebody else's package may fail in any way
            broken[name] = first_line(error.__cause__ or error)
    return makers, broken


def load_backend(name: str) -> Make:
    """What makes a backend's loader; DataError when what it needs is not installed, or broken."""
    backend = BACKENDS[name]
    if not backend.installed():
        raise DataError(
            f"backend {name!r} needs {backend.needs}, which is not installed: pip install 'inception-training[{backend.extra}]'"
        )
    try:
        return getattr(import_module(backend.module), backend.loader)
    except Exception as error:  # importing somebody else's package may fail in any way
        if not backend.needs:
            raise
        raise DataError(
            f"backend {name!r}: {backend.needs} is installed but cannot be imported ({first_line(error)}); {_ADVICE}"
        ) from error
