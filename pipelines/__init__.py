"""From encoded images to batches on a device: the plan decides what every sample becomes, a backend carries it out.

`open_dataset` finds the samples of a split, `TrainPlan` and `EvalPlan` decide, `build_loader` gives the batches.
Bad data or settings raise `DataError`, whose message is one line. Single images: `pipelines.decoding.decode`, a module.

A name is imported when it is first asked for: preparing and checking data start in a moment, without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.datasets.dataset import Dataset, open_dataset, sample_path
    from pipelines.loading.backends import build_loader, list_backends
    from pipelines.loading.batch import Batch
    from pipelines.loading.loader import Loader
    from pipelines.plan.plan import EvalPlan, TrainPlan
    from pipelines.support.errors import DataError

__all__ = [
    "Batch",
    "DataError",
    "Dataset",
    "EvalPlan",
    "Loader",
    "TrainPlan",
    "build_loader",
    "list_backends",
    "open_dataset",
    "sample_path",
]

_HOMES = {
    "loading.backends": ("build_loader", "list_backends"),
    "loading.batch": ("Batch",),
    "datasets.dataset": ("Dataset", "open_dataset", "sample_path"),
    "support.errors": ("DataError",),
    "loading.loader": ("Loader",),
    "plan.plan": ("EvalPlan", "TrainPlan"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'pipelines' has no attribute {name!r}")
    value = getattr(import_module(f"pipelines.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value
