"""How images were normalised is recognised by what the first layer saw, and said where it is only assumed."""

import pytest
import torch

import inception
from engine.graphs.normalisation import Normalise
from inception import export_state
from inception.vocabulary.modules import ConvUnit
from inception.weights.normalisation import USUAL, recognised
from pipelines import TrainPlan, build_loader, open_dataset, sample_path


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """1,024 training images of the sample, cropped and mirrored."""
    dataset = open_dataset(sample_path(), "train", progress=False)
    with build_loader(dataset, TrainPlan(len(dataset), 1024), "native", batch_size=1024, resolution=64) as loader:
        return next(iter(loader)).images


def trained(name: str, images: torch.Tensor, mean, std) -> inception.Network:
    """A network whose first layer has seen the images normalised so."""
    torch.manual_seed(0)
    network = inception.create_model(name, 10, auxiliary=False)
    first = next(module for module in network.modules() if isinstance(module, ConvUnit))
    first.bn.momentum = None  # the mean over all that it sees, which one pass is enough for
    with torch.no_grad():
        for part in Normalise(mean, std)(images).split(128):
            first(part)
    return network


@pytest.mark.parametrize(("mean", "std"), USUAL)
@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_each_usual_normalisation_is_recognised(images, tmp_path, name, mean, std):
    network = trained(name, images, mean, std)
    assert recognised(network) == (mean, std)
    torch.save(export_state(network, "torchvision"), tmp_path / "theirs.pth")
    loaded, weights = inception.network_from_weights(tmp_path / "theirs.pth")
    assert (loaded.mean, loaded.std) == (mean, std)
    assert weights.assumed.endswith("as its first layer's statistics show")


def test_what_cannot_be_told_is_assumed_and_said(images, tmp_path):
    fresh = inception.create_model("inception_v3", 10, auxiliary=False)
    assert recognised(fresh) is None
    assert recognised(inception.create_model("debug", 10, batch_norm=False)) is None
    night = trained("inception_v3", images // 8, *USUAL[0])
    assert recognised(night) is None
    torch.save(export_state(fresh, "torchvision"), tmp_path / "theirs.pth")
    _, weights = inception.network_from_weights(tmp_path / "theirs.pth")
    assert weights.assumed.endswith("which the file does not say and is assumed")
    line = inception.load_weights(fresh, tmp_path / "theirs.pth")
    assert "mean (0.5, 0.5, 0.5) and deviation (0.5, 0.5, 0.5), which the file does not say" in line
