"""One trained network is as good on every backend: decoders differ by less than what decides a guess."""

from functools import partial

import pytest
import torch

from inception import create_model
from pipelines import EvalPlan, TrainPlan, build_loader, open_dataset, sample_path
from pipelines.preparing.beton_writer import write_beton

SIZE = 32


@pytest.fixture(scope="module")
def network(sample_train):
    """A network trained on the sample for one epoch: far from good, and far from chance."""
    torch.manual_seed(0)
    network = create_model("debug", num_classes=10, width=0.25)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    plan = TrainPlan(len(sample_train), 100, scale=(0.5, 1.0))
    with build_loader(sample_train, plan, "native", batch_size=100, resolution=SIZE, workers=1) as loader:
        for batch in loader:
            output = network(batch.images.float() / 128 - 1)
            logits = output[0] if isinstance(output, tuple) else output
            torch.nn.functional.cross_entropy(logits, batch.labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    return network.eval()


def test_top1_is_the_same_on_every_backend(network, sample_val, tmp_path):
    write_beton(partial(open_dataset, sample_path(), "val", progress=False), tmp_path / "val.beton")
    beton = open_dataset(tmp_path, "val", progress=False)
    top1 = {}
    for backend, dataset in (("native", sample_val), ("dali", sample_val), ("ffcv", beton)):
        with build_loader(dataset, EvalPlan(1000, 250), backend, batch_size=250, resolution=SIZE, workers=1) as loader:
            right = torch.zeros(())
            for batch in loader:
                with torch.inference_mode():
                    right += (network(batch.images.float() / 128 - 1).argmax(1) == batch.labels).sum()
            top1[backend] = right.item() / 10
    assert top1["native"] > 20
    assert max(top1.values()) - min(top1.values()) <= 0.2 + 1e-9, top1
