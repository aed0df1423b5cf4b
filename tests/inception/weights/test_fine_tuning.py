"""Files that training scripts leave behind, to fine-tune from and to evaluate: what is left and what is new is said."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import inception
from inception import NetworkError

State = dict[str, Tensor]


def make(name: str = "debug", seed: int = 1, classes: int = 10, **options) -> inception.Network:
    torch.manual_seed(seed)
    return inception.create_model(name, classes, **options)


@pytest.fixture(scope="module")
def state() -> State:
    return make(seed=0).state_dict()


def trunk(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith(("classifier", "auxiliary"))}


def prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def linear(name: str, classes: int = 10, features: int = 384) -> State:
    return {f"{name}.weight": torch.randn(classes, features), f"{name}.bias": torch.randn(classes)}


def loaded(content: object, folder, network: inception.Network | None = None) -> tuple[inception.Network, str]:
    """A network fine-tuned from a file of `content`, and what was said of it after the file's name."""
    torch.save(content, folder / "file.pt")
    network = network or make()
    line = inception.load_weights(network, folder / "file.pt", fine_tune=True)
    assert "\n" not in line
    return network, line.partition("file.pt: ")[2]


def has_trunk(network: inception.Network, state: State) -> bool:
    own = network.state_dict()
    return all(torch.equal(own[name], tensor) for name, tensor in trunk(state).items())


PREFIXES = [
    "net.",
    "backbone.",
    "model.",
    "module.",
    "_orig_mod.",
    "encoder.body.",
    "1.",
    "model.module.net._orig_mod.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_any_common_prefix_comes_off(state, tmp_path, prefix):
    network, _ = loaded({"state_dict": prefixed(prefix, state)}, tmp_path)
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in state.items())


def test_a_trunk_without_classifier_keeps_a_fresh_one(state, tmp_path):
    network, said = loaded(prefixed("backbone.", trunk(state)), tmp_path)
    assert has_trunk(network, state)
    assert torch.equal(network.classifier.weight, make().classifier.weight)
    assert "classifier keeps its fresh weights" in said
    assert "auxiliary1 keeps its fresh weights" in said


OTHERS = {
    "in a Sequential": ("model.", "model.fc.1", 10, "the classifier is its fc.1"),
    "by another name": ("net.", "net.head", 10, "the classifier is its head"),
    "beside the trunk": ("backbone.", "head.fc", 10, "the classifier is its head.fc"),
    "for other classes": ("backbone.", "head", 4, "classifier keeps its fresh weights"),
}


@pytest.mark.parametrize("which", OTHERS)
def test_a_classifier_by_another_name_is_found(state, tmp_path, which):
    prefix, name, classes, expected = OTHERS[which]
    other = linear(name, classes)
    network, said = loaded({"state_dict": prefixed(prefix, trunk(state)) | other}, tmp_path)
    assert has_trunk(network, state)
    assert expected in said
    wanted = other[f"{name}.weight"] if classes == 10 else make().classifier.weight
    assert torch.equal(network.classifier.weight, wanted)


def test_a_classifier_of_several_layers_is_left_out(state, tmp_path):
    network, said = loaded(trunk(state) | linear("fc.0", 64) | linear("fc.3", 10, 64), tmp_path)
    assert has_trunk(network, state)
    assert "fc.0 of the file is not used; fc.3 of the file is not used" in said
    assert torch.equal(network.classifier.weight, make().classifier.weight)


def test_what_lies_beside_the_network_is_named(state, tmp_path):
    content = {"state_dict": prefixed("model.", state) | {"criterion.weight": torch.ones(10)}, "optimizer": {"lr": 0.1}}
    network, said = loaded(content, tmp_path)
    assert said == "criterion of the file is not used"
    assert torch.equal(network.classifier.weight, state["classifier.weight"])


def test_of_two_copies_the_average_is_taken(state, tmp_path):
    zeros = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    network, said = loaded({"state_dict": prefixed("model.", zeros) | prefixed("ema_model.", state)}, tmp_path)
    assert torch.equal(network.classifier.weight, state["classifier.weight"])
    assert "tensors of the file are not used (model)" in said


def test_weights_lie_in_dicts_within_dicts(state, tmp_path):
    network, _ = loaded({"ema": {"decay": 0.99, "module": prefixed("module.", state)}, "epoch": 3}, tmp_path)
    assert torch.equal(network.classifier.weight, state["classifier.weight"])


def test_half_precision_is_widened(state, tmp_path):
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    network, _ = loaded(halves, tmp_path)
    assert network.classifier.weight.dtype == torch.float32
    torch.testing.assert_close(network.classifier.weight, state["classifier.weight"], atol=1e-4, rtol=1e-3)


def test_numbers_that_are_not_finite_are_refused(state, tmp_path):
    torch.save(state | {"stem.0.bn.bias": torch.full((32,), torch.nan)}, tmp_path / "w.pt")
    with pytest.raises(NetworkError, match=r"holds numbers that are not finite, in stem\.0\.bn\.bias"):
        inception.load_weights(make(), tmp_path / "w.pt", fine_tune=True)


@pytest.mark.parametrize("missing", ["inception_a.branch1.conv.weight", "stem.0.bn.running_var"])
def test_a_gap_in_the_trunk_is_refused(state, tmp_path, missing):
    torch.save(prefixed("net.", {name: tensor for name, tensor in state.items() if name != missing}), tmp_path / "w.pt")
    with pytest.raises(NetworkError, match=f"first mismatch.*{missing} is not in the file"):
        inception.load_weights(make(), tmp_path / "w.pt", fine_tune=True)


def test_another_stage_is_refused_though_all_of_ours_is_there(state, tmp_path):
    torch.save(state | {"stem.0.conv.bias": torch.zeros(32)}, tmp_path / "w.pt")
    with pytest.raises(NetworkError, match=r"it has no stem\.0\.conv\.bias"):
        inception.load_weights(make(), tmp_path / "w.pt", fine_tune=True)


@pytest.fixture(scope="module")
def theirs() -> State:
    """GoogLeNet under torchvision's names, its auxiliary heads for 1,000 classes and its classifier for 7."""
    own = inception.export_state(make("googlenet", 0, 7, auxiliary=True), "torchvision")
    for head in ("aux1", "aux2"):
        own |= linear(f"{head}.fc2", 1000, 1024)
    return own


WAYS = {
    "as they are": lambda state: state,
    "prefixed": lambda state: {"state_dict": prefixed("model.", state)},
    "with a Sequential": lambda state: {
        name.replace("fc.", "fc.1.") if name.startswith("fc.") else name: t for name, t in state.items()
    },
    "with a head": lambda state: {
        name.replace("fc.", "head.") if name.startswith("fc.") else f"backbone.{name}": t for name, t in state.items()
    },
}


@pytest.mark.parametrize("way", WAYS)
def test_evaluation_finds_network_and_classes_of_others_files(theirs, tmp_path, way):
    torch.save(WAYS[way](theirs), tmp_path / "theirs.pth")
    network, weights = inception.network_from_weights(tmp_path / "theirs.pth")
    assert (network.name, network.num_classes, network.heads) == ("googlenet", 7, {})
    assert torch.equal(network.classifier.weight, theirs["fc.weight"])
    assert "auxiliary1 of the file is not used" in weights.assumed


def test_evaluation_needs_a_classifier(theirs, tmp_path):
    torch.save({name: t for name, t in theirs.items() if not name.startswith("fc.")}, tmp_path / "trunk.pth")
    with pytest.raises(NetworkError, match=r"without its last layer; to train it anew.*--network.weights"):
        inception.network_from_weights(tmp_path / "trunk.pth")


def test_heads_of_another_number_of_classes_are_no_matter_to_evaluation(state, tmp_path):
    odd = state | linear("auxiliary1.classifier", 4, 48)
    inception.save_weights(tmp_path / "w.safetensors", odd, make().metadata())
    network, weights = inception.network_from_weights(tmp_path / "w.safetensors")
    assert network.heads == {}
    assert weights.assumed == "auxiliary1 of the file is not used"
