"""Our networks with other people's weights compute what theirs compute: logits, auxiliary logits, gradients."""

import copy

import pytest
import torch

from inception.weights.others_names import layout_for
from references import REFERENCES, counterpart, outputs_and_gradients, randomised, relative

BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-12}
# A constant that the next normalisation subtracts again in training: its gradient is rounding and nothing else.
WITHOUT_EFFECT = {
    "inception_resnet_v1": "inception_c6.project.bias",
    "inception_resnet_v2": "inception_c10.project.bias",
}


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=() if r.often else pytest.mark.soak) for name, r in REFERENCES.items()],
)
def pair(request):
    """A reference, their network, ours with its weights."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    reference = REFERENCES[request.param]
    theirs = randomised(reference)
    yield reference, theirs, counterpart(reference, theirs)
    torch.set_num_threads(threads)


def errors(pair, dtype: torch.dtype, training: bool, size: tuple[int, int]) -> tuple[float, float]:
    """The largest relative error of any logits, and of the gradients: in fp64 the largest of any tensor's, in fp32 that
    of all of them as one vector, since there a single ReLU that rounding turns over shows in a small tensor."""
    reference, theirs, ours = pair
    torch.manual_seed(2)
    images = torch.randn(2, 3, *size, dtype=dtype)
    results = []
    for network in (ours, theirs):
        copied = copy.deepcopy(network).to(dtype).train(training)
        results.append(outputs_and_gradients(copied, images))
    (our_logits, our_gradients), (their_logits, their_gradients) = results
    assert len(our_logits) == len(their_logits) == (1 + len(ours.auxiliary_weights) if training else 1)
    names = layout_for(reference.name, reference.source).keys(ours) | {"images": "images"}
    # A bias before a normalisation, which only theirs may have, has no effect.
    pairs = {names[name]: (our_gradients[names[name]], g) for name, g in their_gradients.items() if name in names}
    assert set(pairs) == set(our_gradients)
    if training:
        pairs.pop(WITHOUT_EFFECT.get(reference.name), None)
    if dtype == torch.float32:
        pairs = {"all": tuple(torch.cat([tensor.flatten() for tensor in side]) for side in zip(*pairs.values()))}
    gradients = max(relative(*tensors) for tensors in pairs.values())
    return max(relative(a, b) for a, b in zip(our_logits, their_logits)), gradients


def assert_theirs(pair, dtype: torch.dtype, training: bool, size: tuple[int, int]) -> None:
    logits, gradients = errors(pair, dtype, training, size)
    print(f"relative error: logits {logits:.1e}, gradients {gradients:.1e}")
    exact = pair[0].fp32 or dtype == torch.float64  # else the converter's biases are rounded: logits alone, and roughly
    assert logits < (BOUNDS[dtype] if exact else 1e-3)
    assert gradients < BOUNDS[dtype] or not exact


@pytest.mark.parametrize(
    ("dtype", "training", "which"),
    [
        (torch.float32, True, 1),
        (torch.float64, True, 0),
        (torch.float64, False, 1),
    ],  # single precision: the harder way alone
    ids=["fp32 training", "fp64 training", "fp64 evaluation"],
)
def test_logits_and_gradients_are_theirs(pair, dtype, training, which):
    reference = pair[0]
    assert_theirs(pair, dtype, training, (reference.training_sizes if training else reference.sizes)[which])


@pytest.mark.soak
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("size", ["first", "second", "native"])
def test_logits_and_gradients_are_theirs_at_all_sizes(pair, dtype, training, size):
    reference = pair[0]
    first, second = reference.training_sizes if training else reference.sizes
    native = (pair[2].input_size,) * 2
    assert_theirs(pair, dtype, training, {"first": first, "second": second, "native": native}[size])
