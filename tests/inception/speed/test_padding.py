"""Images padded with channels of zeros: the same function, the same parameters, whatever the network."""

import copy

import pytest
import torch
from torch import nn

import inception
from inception.speed.folding import fold_batch_norm
from inception.speed.padding import pad_images
from references import outputs_and_gradients, relative, sensitivity, without_dropout


# Inception-v4 is so deep that in training, with statistics of two images, a change of the images by 1e-15 changes its
# logits by 1e-7: what rounds differently there says nothing.
@pytest.mark.parametrize(
    ("name", "channels", "training"),
    [("debug", 4, True), ("debug", 8, True), ("googlenet", 8, True), ("inception_v4", 4, False)],
)
def test_networks_compute_the_same(name, channels, training):
    torch.manual_seed(0)
    plain = inception.create_model(name, 10, width=0.25).double().train(training)
    without_dropout(plain)
    padded = copy.deepcopy(plain)
    pad_images(padded, channels)
    seen = []
    first = next(module for module in padded.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_pre_hook(lambda module, inputs: seen.append(module.padded_channels))
    images = torch.randn(2, 3, 96, 96, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    assert sensitivity(plain, images) * 1e-14 < 1e-12
    (logits, gradients), (same_logits, same_gradients) = (outputs_and_gradients(n, images) for n in (plain, padded))
    assert seen == [channels]
    assert max(relative(a, b) for a, b in zip(same_logits, logits)) < 1e-12
    assert same_gradients.keys() == gradients.keys()
    assert all(
        relative(same_gradients[key], gradients[key]) < 1e-8 for key in ("images", *dict(plain.named_parameters()))
    )


def test_the_option_the_file_and_folding(tmp_path):
    torch.manual_seed(0)
    padded = inception.create_model("debug", 10, pad_channels=4).eval()
    plain = inception.create_model("debug", 10).eval()
    assert {k: v.shape for k, v in padded.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    inception.save_weights(tmp_path / "w.safetensors", padded.state_dict(), padded.metadata())
    inception.load_weights(plain, tmp_path / "w.safetensors")
    images = torch.randn(2, 3, 32, 32)
    assert torch.allclose(padded(images), plain(images), atol=1e-5)
    assert torch.allclose(fold_batch_norm(padded)(images), plain(images), atol=1e-5)
    again, _ = inception.network_from_weights(tmp_path / "w.safetensors")
    assert torch.allclose(again.eval()(images), plain(images), atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_too_few_channels_are_refused(channels):
    with pytest.raises(inception.NetworkError, match="pad_channels must exceed the 3 channels"):
        inception.create_model("debug", 10, pad_channels=channels)
