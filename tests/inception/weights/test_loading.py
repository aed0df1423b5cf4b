"""Weights files in and out: what is recognised, what is refused and how it is said, and that nothing is half done."""

import argparse
import os
import pickle
import struct

import pytest
import torch
from safetensors.torch import save_file

import inception
from inception import NetworkError


def make(seed: int = 0, classes: int = 10, **options) -> inception.Network:
    torch.manual_seed(seed)
    return inception.create_model("debug", classes, **options)


def same(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def network():
    return make()


@pytest.fixture
def saved(network, tmp_path):
    file = tmp_path / "weights.safetensors"
    metadata = network.metadata() | {"classes": [f"class {number}" for number in range(10)]}
    inception.save_weights(file, network.state_dict(), metadata)
    return file


def test_own_file_comes_back_exactly(network, saved):
    other = make(1)
    line = inception.load_weights(other, saved)
    assert same(network.state_dict(), other.state_dict())
    assert line == f"debug: loaded our safetensors from {saved}: all {len(network.state_dict())} tensors fit"


def test_a_file_says_which_network_it_belongs_to(network, saved):
    rebuilt, weights = inception.network_from_weights(saved)
    assert same(network.state_dict(), rebuilt.state_dict())
    assert weights.metadata["classes"][3] == "class 3"


def test_options_come_back_with_the_network(tmp_path):
    network = make(in_channels=1, width=0.5, auxiliary=False)
    inception.save_weights(tmp_path / "w.safetensors", network.state_dict(), network.metadata())
    rebuilt, _ = inception.network_from_weights(tmp_path / "w.safetensors")
    assert same(network.state_dict(), rebuilt.state_dict())
    assert rebuilt.in_channels == 1


def test_channels_last_weights_are_written_plain(network, saved, tmp_path):
    network.to(memory_format=torch.channels_last)
    inception.save_weights(tmp_path / "last.safetensors", network.state_dict(), {})
    assert same(inception.read_weights(tmp_path / "last.safetensors").state, inception.read_weights(saved).state)


def test_writing_replaces_the_file_whole_and_leaves_nothing_else(network, saved):
    before = saved.read_bytes()
    with pytest.raises(TypeError):
        inception.save_weights(saved, network.state_dict(), {"not json": object()})
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


WRAPPINGS = {
    "a state dict": (lambda state: state, "a state dict"),
    "DistributedDataParallel": (lambda state: {f"module.{k}": v for k, v in state.items()}, "a state dict"),
    "torch.compile": (lambda state: {f"_orig_mod.{k}": v for k, v in state.items()}, "a state dict"),
    "both, in a training script's file": (
        lambda state: {
            "epoch": 3,
            "args": argparse.Namespace(lr=0.1),
            "state_dict": {f"module._orig_mod.{k}": v for k, v in state.items()},
        },
        "the weights 'state_dict' of a training script",
    ),
    "averaged weights before plain ones": (
        lambda state: {"state_dict": {k: torch.zeros_like(v) for k, v in state.items()}, "ema_state_dict": state},
        "the averaged weights 'ema_state_dict' of a training script",
    ),
    "AveragedModel": (
        lambda state: {"n_averaged": torch.tensor(5), **{f"module.{k}": v for k, v in state.items()}},
        "a state dict",
    ),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappings_of_training_scripts_come_off(network, tmp_path, wrapping):
    wrap, source = WRAPPINGS[wrapping]
    torch.save(wrap(network.state_dict()), tmp_path / "file.pt")
    other = make(1)
    assert f"loaded {source} from" in inception.load_weights(other, tmp_path / "file.pt")
    assert same(network.state_dict(), other.state_dict())


def test_foreign_safetensors_without_metadata(network, tmp_path):
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, tmp_path / "plain.safetensors")
    other = make(1)
    assert "loaded safetensors from" in inception.load_weights(other, tmp_path / "plain.safetensors")
    assert same(network.state_dict(), other.state_dict())
    with pytest.raises(NetworkError, match="does not say which network it belongs to"):
        inception.network_from_weights(tmp_path / "plain.safetensors")


def test_safetensors_are_known_whatever_the_length_of_their_header(network, tmp_path):
    """The file begins with that length: a first byte of 0x80 is not the mark of a pickle."""
    beginnings = set()
    for padding in range(0, 256, 8):
        file = tmp_path / f"{padding}.safetensors"
        inception.save_weights(file, {"bias": torch.zeros(3)}, {"padding": " " * padding})
        beginnings.add(file.read_bytes()[0])
        assert inception.read_weights(file).metadata == {"padding": " " * padding}
    assert 0x80 in beginnings


def test_a_run_directory_stands_for_its_best_or_else_its_newest_weights(network, saved, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    for step, seed in ((5, 1), (20, 2)):
        state = make(seed).state_dict()
        content = {"format": "inception-checkpoint-1", "network": state, "ema": None, "metadata": network.metadata()}
        torch.save(content, folder / f"step-{step:09d}.pt")
    assert same(inception.read_weights(tmp_path / "run").state, make(2).state_dict())
    saved.rename(folder / "best.safetensors")
    assert same(inception.read_weights(tmp_path / "run").state, network.state_dict())
    assert same(inception.read_weights(folder).state, network.state_dict())


@pytest.mark.parametrize("averaged", [True, False])
def test_checkpoints_of_training_give_the_averaged_weights_if_they_have_any(network, tmp_path, averaged):
    trained, average = make(1).state_dict(), network.state_dict()
    content = {
        "format": "inception-checkpoint-1",
        "network": trained,
        "ema": average if averaged else None,
        "metadata": network.metadata(),
    }
    torch.save(content, tmp_path / "step.pt")
    rebuilt, weights = inception.network_from_weights(tmp_path / "step.pt")
    assert same(rebuilt.state_dict(), average if averaged else trained)
    assert weights.source == ("our checkpoint, averaged weights" if averaged else "our checkpoint")


def test_auxiliary_heads_that_only_the_file_has_are_left_out(saved):
    other = make(1, auxiliary=False)
    assert "auxiliary1 of the file is not used" in inception.load_weights(other, saved)


def test_fine_tuning_replaces_classifiers_and_says_so(network, saved):
    other = make(1, classes=4)
    fresh = other.classifier.weight.clone()
    line = inception.load_weights(other, saved, fine_tune=True)
    assert line.endswith("classifier keeps its fresh weights; auxiliary1 keeps its fresh weights")
    assert torch.equal(other.classifier.weight, fresh)
    assert torch.equal(other.stem[0].conv.weight, network.stem[0].conv.weight)


def refusal(network: inception.Network, file) -> str:
    """The line that refuses `file`; the network must be untouched."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(NetworkError) as caught:
        inception.load_weights(network, file)
    assert same(before, network.state_dict())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_number_of_classes_is_refused_without_fine_tuning(saved):
    assert "first mismatch): classifier.weight is 4 x 384 here and 10 x 384 in the file" in refusal(
        make(1, classes=4), saved
    )


def test_weights_of_another_network_are_refused(tmp_path, saved):
    with torch.device("meta"):
        other = inception.create_model("inception_v4", 10)
    with pytest.raises(
        NetworkError, match=r"does not fit inception_v4 \(it holds debug, first mismatch\): stem.1.conv"
    ):
        inception.load_weights(other, saved)


def test_a_tensor_that_is_not_known_is_named(network, tmp_path):
    torch.save(network.state_dict() | {"extra.weight": torch.zeros(1)}, tmp_path / "extra.pt")
    assert refusal(network, tmp_path / "extra.pt").endswith("it has no extra.weight")


def test_missing_empty_and_foreign_files(network, tmp_path):
    assert refusal(network, tmp_path / "none.pt") == f"there is no weights file {tmp_path / 'none.pt'}"
    assert "is a directory without checkpoints" in refusal(network, tmp_path)
    if os.geteuid() != 0:  # root reads everything
        tmp_path.joinpath("locked.pt").touch(0o000)
        assert "cannot read the weights file" in refusal(network, tmp_path / "locked.pt")
    (tmp_path / "empty.pt").touch()
    assert "is empty" in refusal(network, tmp_path / "empty.pt")
    (tmp_path / "text.pt").write_text("these are no weights, these are words")
    assert "is neither safetensors nor a PyTorch file" in refusal(network, tmp_path / "text.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    assert "holds a list, not a dict of tensors" in refusal(network, tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "numbers.pt")
    assert "holds no tensors by name" in refusal(network, tmp_path / "numbers.pt")


@pytest.mark.parametrize("kept", [0.99, 0.5, 0.01])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_truncated_files_are_refused(network, saved, tmp_path, suffix, kept):
    torch.save(network.state_dict(), tmp_path / "whole.pt")
    whole = (saved if suffix == "safetensors" else tmp_path / "whole.pt").read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole[: int(len(whole) * kept)])
    assert "is truncated or damaged" in refusal(network, cut)


class Harmful:
    """What a malicious file would hold: unpickling it makes a directory."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("protocol", ["zip", "legacy", "pickle 2", "pickle 4"])
def test_code_in_files_is_never_run(network, tmp_path, protocol):
    mark = tmp_path / "harm"
    content = {"state_dict": network.state_dict(), "extra": Harmful(str(mark))}
    file = tmp_path / "harmful.pt"
    if protocol.startswith("pickle"):
        file.write_bytes(pickle.dumps(Harmful(str(mark)), int(protocol[-1])))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=protocol == "zip")
    assert ("a pickle that torch.save did not write" if protocol == "pickle 4" else "mkdir") in refusal(network, file)
    assert not mark.exists()


def test_whole_pickled_networks_are_refused(network, tmp_path):
    torch.save(network, tmp_path / "whole.pt")
    line = refusal(network, tmp_path / "whole.pt")
    assert "inception.vocabulary.network.Network" in line
    assert "save its state dict alone" in line


def test_damaged_metadata_is_refused(network, tmp_path):
    tensors = {k: v.contiguous() for k, v in network.state_dict().items()}
    save_file(tensors, tmp_path / "w.safetensors", metadata={"inception": "{broken"})
    assert "has damaged metadata" in refusal(network, tmp_path / "w.safetensors")
    (tmp_path / "header.safetensors").write_bytes(struct.pack("<Q", 1 << 40) + b"{")
    assert "is truncated or damaged" in refusal(network, tmp_path / "header.safetensors")
