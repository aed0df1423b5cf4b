"""Weights by name, fetched from a server on this machine that speaks torch.hub's protocol and the Hugging Face hub's."""

import hashlib
import json

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save

import inception
from hub import serving
from inception import NetworkError
from inception.weights import published
from inception.weights.fetching import fetch
from inception.weights.published import find_published

NAME = "timm:inception_v4.tf_in1k"


@pytest.fixture
def server(tmp_path, monkeypatch):
    with serving(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def small() -> bytes:
    """A file of ours, as an owner of a repository would upload it."""
    network = inception.create_model("debug", 10)
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    return save(state, metadata={"inception": json.dumps(network.metadata())})


def test_an_entry_of_timm_comes_from_the_hub_and_then_from_its_cache(server, monkeypatch):
    path = "/timm/inception_v4.tf_in1k/resolve/main/pytorch_model.bin"
    server.files[path] = b"weights"
    file, known = fetch(NAME)
    assert file.read_bytes() == b"weights"
    assert known == find_published(NAME).metadata
    monkeypatch.setattr(constants, "ENDPOINT", "http://nowhere.invalid")
    assert fetch(NAME)[0] == file
    assert server.fetched == [path]


@pytest.mark.parametrize("revision", ["", "v2"])
def test_a_repository_is_read_at_its_revision(server, small, revision):
    server.files[f"/some/body/resolve/{revision or 'main'}/model.safetensors"] = small
    name = "hf:some/body" + (f"@{revision}" if revision else "")
    network, weights = inception.network_from_weights(name)
    assert (network.name, network.num_classes, weights.metadata["network"]) == ("debug", 10, "debug")


def test_a_repository_of_timms_says_how_images_are_shown(server):
    shown = {"input_size": [3, 299, 299], "interpolation": "bicubic", "crop_pct": 0.95, "mean": [0.4, 0.5, 0.6],
             "std": [0.2, 0.2, 0.2]}  # fmt: skip
    config = {"architecture": "inception_v3", "num_classes": 2, "label_names": ["a", "b"], "pretrained_cfg": shown}
    server.files["/some/body/resolve/main/config.json"] = json.dumps(config).encode()
    server.files["/some/body/resolve/main/model.safetensors"] = b"weights"
    _, known = fetch("hf:some/body")
    assert (
        known["evaluation"] | {"resize": 314, "interpolation": "bicubic", "mean": [0.4, 0.5, 0.6]}
        == known["evaluation"]
    )
    assert known["classes"] == ["a", "b"]
    server.files["/some/one/resolve/main/config.json"] = b'{"model_type": "bert"}'
    server.files["/some/one/resolve/main/model.safetensors"] = b"weights"
    with pytest.raises(NetworkError, match=r"the config.json of hf:some/one is none of timm's"):
        fetch("hf:some/one")


def test_an_url_is_checked_against_its_sum_and_cached(server, small):
    server.files["/a/file.safetensors"] = small
    url = f"{server.address}/a/file.safetensors#sha256={hashlib.sha256(small).hexdigest()}"
    for _ in range(2):
        network, _ = inception.network_from_weights(url)
    assert (network.name, server.fetched) == ("debug", ["/a/file.safetensors"])
    server.files["/a/file.safetensors"] = b"something else"
    with pytest.raises(
        NetworkError, match="is not the file that was asked for: its SHA-256 does not begin with 00000000"
    ):
        fetch(f"{server.address}/a/file.safetensors#sha256={'0' * 64}")


def test_an_entry_of_torchvision_comes_through_torch_hub(server, monkeypatch):
    content = b"weights"
    path = f"/models/googlenet-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    server.files[path] = content
    name = "torchvision:googlenet.IMAGENET1K_V1"
    entry = published.Published(name, "googlenet", server.address + path, "", find_published(name).metadata)
    monkeypatch.setattr("inception.weights.fetching.find_published", lambda name: entry)
    file, known = fetch(name)
    assert file.parent.name == "checkpoints"
    assert str(file).startswith(torch.hub.get_dir())
    assert (file.read_bytes(), known) == (content, entry.metadata)


def test_what_cannot_be_fetched_is_one_line(server, monkeypatch):
    server.files["/some/body/resolve/main/readme.md"] = b""
    cases = {
        "hf:some/body": "has no model.safetensors or pytorch_model.bin",
        "hf:no/body": "cannot download config.json of",
    }
    cases[f"{server.address}/gone.pth#sha256={'0' * 64}"] = "and it is not in the cache"
    for name, message in cases.items():
        with pytest.raises(NetworkError) as raised:
            fetch(name)
        assert message in str(raised.value)
        assert "\n" not in str(raised.value)
    monkeypatch.setattr(constants, "ENDPOINT", "http://nowhere.invalid")
    with pytest.raises(
        NetworkError, match=r"cannot download model.safetensors of timm:.*there is no network, and it is not"
    ):
        fetch(NAME)


def test_create_model_takes_published_weights(server, small):
    server.files["/some/body/resolve/main/model.safetensors"] = small
    network = inception.create_model("debug", 10, pretrained="hf:some/body")
    other, _ = inception.network_from_weights("hf:some/body")
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in network.state_dict().items())
    with pytest.warns(UserWarning, match="classifier keeps its fresh weights"):
        inception.create_model("debug", 7, pretrained="hf:some/body")
