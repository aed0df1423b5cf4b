"""From encoded images to batches on a device: the plan decides what every sample becomes, a backend carries it out.

`open_dataset` finds the samples of a split, `TrainPlan` and `EvalPlan` decide, `build_loader` gives the batches.
Bad data or settings raise `DataError`, whose message is one line.
"""

from pipelines.backends import build_loader, list_backends
from pipelines.batch import Batch
from pipelines.dataset import Dataset, open_dataset, sample_path
from pipelines.decode import decode
from pipelines.errors import DataError
from pipelines.loader import Loader
from pipelines.plan import EvalPlan, TrainPlan

__all__ = [
    "Batch",
    "DataError",
    "Dataset",
    "EvalPlan",
    "Loader",
    "TrainPlan",
    "build_loader",
    "decode",
    "list_backends",
    "open_dataset",
    "sample_path",
]
