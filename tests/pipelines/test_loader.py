"""What a loader of any backend promises: each rank's share, positions, resolutions, lengths."""

import numpy as np
import pytest
import torch

from pipelines import Batch, DataError, EvalPlan, TrainPlan, build_loader, open_dataset, sample_path

HOST = ["native", "synthetic"]


@pytest.fixture(scope="module")
def val():
    return open_dataset(sample_path(), "val", progress=False)


def load(dataset, plan, backend="native", **options):
    return build_loader(dataset, plan, backend, **{"batch_size": 16, "resolution": 32, "workers": 2} | options)


@pytest.mark.parametrize("backend", HOST)
def test_a_batch_has_the_promised_layout(val, backend):
    with load(val, TrainPlan(len(val), 64), backend) as loader:
        batch = next(iter(loader))
    assert isinstance(batch, Batch)
    assert batch.images.shape == (16, 3, 32, 32)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.labels.dtype == batch.indices.dtype == torch.int64
    assert batch.labels.tolist() == val.labels(batch.indices.numpy()).tolist()


def test_more_samples_per_batch_than_the_dataset_has_is_one_clear_error(val):
    with pytest.raises(DataError, match="global batch of 1001 is larger than the dataset of 1000 samples"):
        TrainPlan(len(val), 1001)


@pytest.mark.parametrize("backend", HOST)
def test_an_evaluation_names_each_sample_once(val, backend):
    seen = []
    for rank in range(3):
        with load(val, EvalPlan(len(val), 96), backend, rank=rank, world_size=3) as loader:
            batches = list(loader)
            assert len(batches) == len(loader)
            seen += [index for batch in batches for index in batch.indices.tolist()]
    assert sorted(seen) == np.arange(len(val)).tolist()
