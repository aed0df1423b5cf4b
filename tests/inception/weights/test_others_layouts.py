"""Weights of other projects are recognised, loaded and written back; what does not fit is refused in one line."""

import warnings
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from pytorchcv.model_provider import get_model
from safetensors.torch import save_file
from torch import nn

import inception
from inception import NetworkError
from inception.weights.others_layouts import recognise, to_ours
from inception.weights.others_names import LAYOUTS, expanded, layout_for
from references import outputs_and_gradients, relative

DATA = Path(__file__).parent / "data"
HEADS = {"auxiliary": True}


def theirs(project: str, name: str, **options) -> nn.Module:
    """Another project's network without storage."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if project == "torchvision":
            return getattr(torchvision.models, name)(num_classes=10, init_weights=False, **options)
        if project == "timm":
            return timm.create_model(name, num_classes=10, **options)
        return get_model(name, num_classes=10)


def ours(name: str, **options) -> inception.Network:
    with torch.device("meta"):
        return inception.create_model(name, 10, **options)


FOREIGN = [
    ("torchvision", "googlenet", "googlenet", {"aux_logits": True}, "torchvision"),
    ("torchvision", "googlenet", "googlenet", {"aux_logits": False}, "torchvision"),
    ("torchvision", "inception_v3", "inception_v3", {"aux_logits": True}, "torchvision or timm"),
    ("timm", "inception_v3", "inception_v3", {"aux_logits": False}, "torchvision or timm"),
    ("timm", "inception_v4", "inception_v4", {}, "timm or Cadene"),
    ("timm", "inception_resnet_v2", "inception_resnet_v2", {}, "timm"),
    ("pytorchcv", "bninception", "inception_v2", {}, "pytorchcv"),
    ("pytorchcv", "inceptionv3", "inception_v3", {}, "pytorchcv"),
    ("pytorchcv", "inceptionv4", "inception_v4", {}, "pytorchcv"),
    ("pytorchcv", "inceptionresnetv1", "inception_resnet_v1", {}, "pytorchcv"),
    ("pytorchcv", "inceptionresnetv2", "inception_resnet_v2", {}, "pytorchcv"),
]


@pytest.mark.parametrize(("project", "their_name", "name", "options", "source"), FOREIGN)
def test_every_network_of_theirs_is_recognised_and_fits_whole(project, their_name, name, options, source):
    state = theirs(project, their_name, **options).state_dict()
    layout = recognise(state, LAYOUTS)
    assert (layout.network, layout.source) == (name, source)
    network = ours(name, auxiliary=options.get("aux_logits", False))
    converted = to_ours(layout, network, state)
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in network.state_dict().items()}


@pytest.mark.parametrize(("project", "their_name", "name", "options", "source"), FOREIGN[:6])
def test_exported_weights_load_strictly_there_in_their_order(project, their_name, name, options, source):
    there = theirs(project, their_name, **options)
    network = ours(name, auxiliary=options.get("aux_logits", False))
    state = inception.export_state(network, project)
    assert list(state) == list(there.state_dict())
    there.load_state_dict(state, strict=True, assign=True)


@pytest.mark.parametrize(
    ("file", "name", "source", "without_counterpart"),
    [
        ("facenet-pytorch-inception_resnet_v1.txt", "inception_resnet_v1", "facenet-pytorch", 0),
        ("cadene-bninception.txt", "inception_v2", "Cadene", 69),  # biases that move into the normalisations' means
    ],
)
def test_projects_that_cannot_be_installed_are_known_by_their_names(file, name, source, without_counterpart):
    lines = [line.split(" ") for line in (DATA / file).read_text().splitlines()]
    state = {key: torch.empty([int(side) for side in sides.split(",") if side], device="meta") for key, sides in lines}
    layout = recognise(state, LAYOUTS)
    assert (layout.network, layout.source) == (name, source)
    network = ours(name, auxiliary=False)
    converted = to_ours(layout, network, state)
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in network.state_dict().items()}
    assert len(state) - len(converted) == without_counterpart


def test_last_layer_names_tell_cadene_from_timm():
    network = ours("inception_resnet_v2")
    state = inception.export_state(network, "timm")
    renamed = {key.replace("classif.", "last_linear."): tensor for key, tensor in state.items()}
    assert recognise(renamed, LAYOUTS).source == "Cadene"
    assert recognise(network.state_dict(), LAYOUTS) is None


@pytest.fixture(scope="module")
def googlenet() -> inception.Network:
    torch.manual_seed(0)
    return inception.create_model("googlenet", 10)


def saved_as_theirs(network: inception.Network, source: str, folder: Path) -> Path:
    torch.save(inception.export_state(network, source), folder / "theirs.pth")
    return folder / "theirs.pth"


def test_there_and_back(googlenet, tmp_path):
    there = torchvision.models.googlenet(num_classes=10, init_weights=False)
    there.load_state_dict(inception.export_state(googlenet, "torchvision"), strict=True)
    images = torch.randn(2, 3, 64, 64)
    here, far = (outputs_and_gradients(network.eval(), images)[0][0] for network in (googlenet, there))
    assert relative(here, far) < 1e-6
    torch.save({"state_dict": {f"module.{k}": v for k, v in there.state_dict().items()}}, tmp_path / "there.pth")
    back = inception.create_model("googlenet", 10)
    line = inception.load_weights(back, tmp_path / "there.pth")
    assert "the weights 'state_dict' of a training script in the layout of torchvision from" in line
    assert f"all {len(googlenet.state_dict())} tensors fit; images are normalised" in line
    assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in googlenet.state_dict().items())


def test_the_network_is_built_from_their_names_and_shapes(googlenet, tmp_path):
    file = saved_as_theirs(googlenet, "torchvision", tmp_path)
    network, weights = inception.network_from_weights(file)
    assert (network.name, network.num_classes, len(network.auxiliary_weights)) == ("googlenet", 10, 2)
    assert weights.metadata == {}
    plain = {k: v for k, v in inception.export_state(googlenet, "torchvision").items() if not k.startswith("aux")}
    save_file(plain, tmp_path / "plain.safetensors")
    network, _ = inception.network_from_weights(tmp_path / "plain.safetensors")
    assert network.auxiliary_weights == ()


def test_heads_that_only_their_file_has_are_left_out(googlenet, tmp_path):
    line = inception.load_weights(
        inception.create_model("googlenet", 10, auxiliary=False), saved_as_theirs(googlenet, "torchvision", tmp_path)
    )
    assert "auxiliary1 of the file is not used; auxiliary2 of the file is not used; images are normalised" in line


def test_biases_move_into_means_and_images_are_theirs(tmp_path):
    torch.manual_seed(0)
    there = get_model("bninception", num_classes=10)
    torch.save(there.state_dict(), tmp_path / "bn.pth")
    network = inception.create_model("inception_v2", 10)
    line = inception.load_weights(network, tmp_path / "bn.pth")
    assert line.endswith("images are normalised with mean (0.485, 0.456, 0.406) and deviation (0.229, 0.224, 0.225)")
    # And they stay so through a file of ours.
    inception.save_weights(tmp_path / "ours.safetensors", network.state_dict(), network.metadata())
    again, _ = inception.network_from_weights(tmp_path / "ours.safetensors")
    assert (again.mean, again.std) == (network.mean, network.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def refusal(network: inception.Network, file: Path) -> str:
    with pytest.raises(NetworkError) as caught:
        inception.load_weights(network, file)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{file} ")


def test_misfits_of_their_files_are_named(googlenet, tmp_path):
    file = saved_as_theirs(googlenet, "torchvision", tmp_path)
    assert refusal(ours("inception_v3"), file).startswith(
        "does not fit inception_v3 (it holds googlenet in the layout of torchvision, first mismatch): stem.0.conv.weight"
    )
    with torch.device("meta"):
        wide = inception.create_model("googlenet", 12)
    assert refusal(wide, file) == (
        "does not fit googlenet (first mismatch): classifier.weight (fc.weight) is 12 x 1024 here and 10 x 1024 in the file"
    )
    state = inception.export_state(googlenet, "torchvision")
    del state["inception4b.branch2.0.bn.running_var"]
    torch.save(state, file)
    assert refusal(ours("googlenet"), file) == (
        "does not fit googlenet (first mismatch): inception_4b.branch2.0.bn.running_var "
        "(inception4b.branch2.0.bn.running_var) is not in the file"
    )
    torch.save(inception.export_state(googlenet, "torchvision") | {"new.weight": torch.ones(1)}, file)
    assert refusal(ours("googlenet"), file) == "does not fit googlenet (first mismatch): it has no new.weight"


def test_what_cannot_be_exported_says_so():
    with pytest.raises(NetworkError, match="timm has no googlenet; known layouts of it: torchvision"):
        inception.export_state(ours("googlenet"), "timm")
    with pytest.raises(NetworkError, match="torchvision's googlenet has batch normalisation"):
        inception.export_state(ours("googlenet", batch_norm=False), "torchvision")
    with pytest.raises(NetworkError, match="Cadene's weights of inception_v2 expect other images"):
        inception.export_state(ours("inception_v2"), "Cadene")
    with pytest.raises(NetworkError, match="torchvision has no debug; known layouts of it: none"):
        layout_for("debug", "torchvision")


def test_ranges_of_names():
    assert expanded("a1-3 b x.9-11") == ["a1", "a2", "a3", "b", "x.9", "x.10", "x.11"]
