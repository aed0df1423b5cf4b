"""Published weights by name: what their publishers say is read from the libraries, and recognised in downloaded files."""

import hashlib
import math

import pytest
import timm
import torch
import torchvision

import inception
from inception import NetworkError
from inception.weights import published
from inception.weights.published import find_published, list_pretrained


def test_every_entry_of_the_libraries_is_listed():
    names = list_pretrained()
    for network in ("googlenet", "inception_v3"):
        for weights in torchvision.models.get_model_weights(network):
            assert f"torchvision:{network}.{weights.name}" in names
    for network in ("inception_v3", "inception_v4", "inception_resnet_v2"):
        assert {f"timm:{entry}" for entry in timm.list_pretrained(f"{network}.*")} == {
            name for name in list_pretrained(network) if name.startswith("timm:")
        }
    assert list_pretrained("inception_v2") == []


@pytest.mark.parametrize("name", list_pretrained())
def test_what_the_publisher_says_is_carried(name):
    shown = find_published(name).metadata["evaluation"]
    source, _, rest = name.partition(":")
    if source == "timm":
        config = timm.get_pretrained_cfg(rest)
        wanted = (config.input_size[1], config.interpolation, math.floor(config.input_size[1] / config.crop_pct))
        assert (tuple(shown["mean"]), tuple(shown["std"])) == (config.mean, config.std)
    else:
        network, _, entry = rest.partition(".")
        theirs = torchvision.models.get_model_weights(network)[entry].transforms()
        wanted = (theirs.crop_size[0], theirs.interpolation.value, theirs.resize_size[0])
    assert (shown["resolution"], shown["interpolation"], shown["resize"]) == wanted
    assert shown["exif"] is False


@pytest.mark.parametrize("network", ["googlenet", "inception_v3"])
def test_torchvisions_networks_transform_their_images_when_made_with_weights(network, monkeypatch):
    """What the mean and deviation of its entries rest on: the network's own transformation undoes ImageNet's."""
    make = getattr(torchvision.models, network)
    weights = next(iter(torchvision.models.get_model_weights(network)))
    state = make(init_weights=False, aux_logits=True).state_dict()
    monkeypatch.setattr(type(weights), "get_state_dict", lambda self, *_, **__: state)
    theirs, images = make(weights=weights), torch.rand(1, 3, 4, 4)
    shown = find_published(f"torchvision:{network}.{weights.name}").metadata
    mean, std = (torch.tensor(shown[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    crop = weights.transforms()
    normalised = torchvision.transforms.functional.normalize(images, crop.mean, crop.std)
    assert torch.allclose(theirs._transform_input(normalised), (images - mean) / std, atol=1e-6)


def test_a_downloaded_file_is_recognised_by_its_content(tmp_path, monkeypatch):
    entry = find_published("torchvision:googlenet.IMAGENET1K_V1")
    state = torchvision.models.googlenet(init_weights=False, aux_logits=False).state_dict()
    torch.save(state, tmp_path / "renamed.bin")
    prefix = hashlib.sha256((tmp_path / "renamed.bin").read_bytes()).hexdigest()[:8]
    known = published.Published(entry.name, entry.network, f"https://host/googlenet-{prefix}.pth", "", entry.metadata)
    monkeypatch.setattr(published, "published", lambda: {entry.name: known})
    _, weights = inception.network_from_weights(tmp_path / "renamed.bin")
    assert weights.metadata["published"] == entry.name
    assert weights.metadata["evaluation"]["resize"] == 256
    torch.save(state | {"fc.bias": state["fc.bias"] + 1}, tmp_path / "other.bin")
    assert inception.network_from_weights(tmp_path / "other.bin")[1].metadata == {}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:inception_v4.tf_in1", "did you mean 'timm:inception_v4.tf_in1k'?"),
        ("torchvision:inception_v3.IMAGENET1K_V2", "did you mean 'torchvision:inception_v3.IMAGENET1K_V1'?"),
        ("hf:nobody", "write hf:OWNER/REPOSITORY"),
        ("https://127.0.0.1/file.pth", "needs the SHA-256 of its file"),
        ("https://127.0.0.1/file.pth#sha256=12", "needs the SHA-256 of its file"),
    ],
)
def test_a_wrong_name_is_one_line(name, message):
    with pytest.raises(NetworkError) as raised:
        inception.read_weights(name)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_pretrained_without_a_choice_names_them_all():
    with pytest.raises(NetworkError, match=r"torchvision:inception_v3.IMAGENET1K_V1.*timm:inception_v3.tv_in1k"):
        inception.create_model("inception_v3", pretrained=True)
    with pytest.raises(NetworkError, match=r"inception_v2: none"):
        inception.create_model("inception_v2", pretrained=True)
    with pytest.raises(NetworkError, match=r"did you mean 'tf_in1k'"):
        inception.create_model("inception_v3", pretrained="tf_in1")
