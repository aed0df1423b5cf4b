"""The parts of a step against their definitions: loss, optimizers, schedules, averages, synchronised normalisation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from engine.config.batching import Batching
from engine.config.options import CompileConfig, Config, NetworkConfig, OptimizerConfig, ScheduleConfig, StrategyConfig
from engine.distributed.communicator import Communicator
from engine.distributed.parallelism import Parallelism
from engine.graphs.normalisation import Normalise
from engine.graphs.objective import Objective
from engine.graphs.scorer import Scorer
from engine.training.network import build_network, settle_fusion
from engine.training.optimizers import create_optimizer
from engine.training.schedules import learning_rate
from engine.training.train_step import TrainStep
from engine.training.weight_averaging import Ema
from inception import create_model
from inception.vocabulary.modules import BranchesBlock
from launch.environment import Environment


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=generator)


LABELS = torch.tensor([0, 3, 2, 9, 9, 1])


def test_normalisation_is_that_of_the_network(images):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (images.double() / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    torch.testing.assert_close(Normalise(mean, std)(images).double(), expected, rtol=1e-5, atol=1e-5)


def test_the_loss_is_smoothed_cross_entropy_with_weighted_auxiliary_losses(images):
    torch.manual_seed(0)
    network = create_model("debug", 10).train()
    loss, right = Objective(network, (0.3,), label_smoothing=0.1, dtype=torch.float32)(images, LABELS)
    logits, extra = network(Normalise(network.mean, network.std)(images))

    def smoothed(outputs: torch.Tensor) -> torch.Tensor:
        target = torch.full_like(outputs, 0.1 / 10).scatter_(1, LABELS[:, None], 0.9 + 0.1 / 10)
        return -(target * outputs.log_softmax(1)).sum(1).mean()

    torch.testing.assert_close(loss, smoothed(logits) + 0.3 * smoothed(extra))
    assert right == (logits.argmax(1) == LABELS).sum()


def test_scores_leave_out_slots_without_a_label(images):
    torch.manual_seed(0)
    scorer = Scorer(create_model("debug", 10).eval(), dtype=torch.float32)
    labels = torch.tensor([0, 3, -1, 9, -1, 1])
    counted, top1, top5, loss = scorer(images, labels)[0].tolist()
    probabilities = scorer.probabilities(images)[labels >= 0]
    kept = labels[labels >= 0]
    order = probabilities.argsort(1, descending=True)
    assert counted == 4
    assert top1 == (order[:, 0] == kept).sum()
    assert top5 == (order[:, :5] == kept[:, None]).sum()
    assert loss == pytest.approx(nn.functional.nll_loss(probabilities.log(), kept, reduction="sum").item(), rel=1e-5)


def test_flipped_evaluation_is_symmetric(images):
    torch.manual_seed(0)
    scorer = Scorer(create_model("debug", 10).eval(), dtype=torch.float32, flip=True)
    torch.testing.assert_close(scorer.probabilities(images), scorer.probabilities(images.flip(3)))


def steps_with(options: OptimizerConfig, clip_norm: float | None, gradients: list[float]) -> float:
    """A single weight of 1, moved by the given gradients."""
    network = nn.Module()
    network.register_parameter("weight", nn.Parameter(torch.ones(1, 1)))
    objective = nn.Module()
    objective.network, objective.dtype = network, torch.float32
    optimizer = create_optimizer(network, options)
    parallelism = Parallelism(Communicator(Environment(), torch.device("cpu")), StrategyConfig())
    parallelism.prepare(objective, optimizer, Config(), Batching(1, 1, 1))
    for gradient in gradients:
        network.weight.grad = torch.full((1, 1), gradient)
        parallelism.update(clip_norm, measure=False)
    return network.weight.item()


def test_rmsprop_is_tensorflows():
    """Accumulator from one, epsilon inside the root, momentum over the scaled update (the Inception papers' optimizer)."""
    options = OptimizerConfig(name="rmsprop", lr=0.1, decay=0.9, epsilon=1.0, momentum=0.9, weight_decay=0.0)
    weight, square, moment = 1.0, 1.0, 0.0
    for gradient in (0.5, -2.0, 3.0):
        square = 0.9 * square + 0.1 * gradient**2
        moment = 0.9 * moment + 0.1 * gradient / math.sqrt(square + 1.0)
        weight -= moment
    assert steps_with(options, None, [0.5, -2.0, 3.0]) == pytest.approx(weight, rel=1e-6)


def test_sgd_with_nesterov_momentum_and_clipping():
    options = OptimizerConfig(name="sgd", lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    weight, moment = 1.0, 0.0
    for gradient in (0.5, 1.0, -1.0):  # -4 is clipped to a norm of 1
        gradient += 0.01 * weight
        moment = 0.9 * moment + gradient
        weight -= 0.1 * (gradient + 0.9 * moment)
    assert steps_with(options, 1.0, [0.5, 1.0, -4.0]) == pytest.approx(weight, rel=1e-6)


def test_weight_decay_spares_biases_and_normalisation():
    network = create_model("debug", 10)
    decayed, spared = create_optimizer(network, OptimizerConfig(weight_decay=0.1)).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    names = {parameter: name for name, parameter in network.named_parameters()}
    assert all(names[parameter].endswith(("conv.weight", "classifier.weight")) for parameter in decayed["params"])
    assert all(names[parameter].endswith(("bias", "bn.weight")) for parameter in spared["params"])
    assert len(decayed["params"]) + len(spared["params"]) == len(names)


def test_schedules_follow_their_formulas():
    optimizer = OptimizerConfig(lr=0.4, lr_batch_size=256)

    def at(epoch: float, **options) -> float:
        schedule = ScheduleConfig(**{"epochs": 10, "warmup_epochs": 2, "decay_rate": 0.5, "decay_epochs": 3} | options)
        return learning_rate(round(epoch * 100), 100, 512, schedule, optimizer)

    assert at(5, kind="constant") == pytest.approx(0.8)  # scaled by 512 / 256
    assert at(1, kind="cosine") == pytest.approx(0.8 * 101 / 201)
    assert at(2, kind="cosine") == pytest.approx(0.8)
    assert at(6, kind="cosine") == pytest.approx(0.4)
    assert at(10, kind="cosine") == pytest.approx(0.0)
    assert at(4.5, kind="exponential") == pytest.approx(0.8 * 0.5**1.5)
    assert at(8.99, kind="step") == pytest.approx(0.8 * 0.25)


def test_averages_follow_their_recurrence_and_leave_the_network_alone():
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 0.0)
    ema, expected = Ema(network, 0.5), 0.0
    for step, value in enumerate((1.0, 2.0, 3.0), start=1):
        nn.init.constant_(network.weight, value)
        ema.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    with ema.applied():
        assert network.weight.item() == pytest.approx(expected)
    assert network.weight.item() == 3.0


def test_accumulated_steps_equal_one_large_step(images):
    """Without batch normalisation, two micro-batches of 3 move the weights as one batch of 6 does."""
    results = []
    for parts in (1, 2):
        torch.manual_seed(0)
        network = create_model("debug", 10, batch_norm=False).train()
        objective = Objective(network, (0.3,), 0.0, dtype=torch.float32)
        parallelism = Parallelism(Communicator(Environment(), torch.device("cpu")), StrategyConfig())
        optimizer = create_optimizer(network, OptimizerConfig(lr=0.1))
        prepared = parallelism.prepare(objective, optimizer, Config(), Batching(6, parts, 6 // parts))
        step = TrainStep(prepared, parallelism, parts, None)
        step.begin(seed=1)
        for part in torch.arange(6).chunk(parts):
            step.accumulate(images[part], LABELS[part])
        values, norm = step.update(measure=True)
        results.append((values, norm, torch.cat([p.detach().flatten() for p in network.parameters()])))
    for left, right in zip(*results):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("asked", "merged"), [(None, "in training"), (True, "everywhere"), (False, "nowhere")])
def test_a_run_merges_convolutions_where_it_is_told_to(asked, merged):
    network = build_network(Config(network=NetworkConfig(name="debug", fuse=asked)), 10)
    blocks = [block for block in network.modules() if isinstance(block, BranchesBlock)]
    here = torch.zeros(1)
    wide = {
        training: any(b.wide is not None and b.wide.serves(here, training) for b in blocks)
        for training in (True, False)
    }
    assert wide == {True: merged != "nowhere", False: merged == "everywhere"}


@pytest.mark.parametrize(("device", "compiles", "found", "settled"), [
    ("cuda", True, True, True), ("cuda", False, True, None), ("cuda", True, False, None), ("cpu", True, True, None),
])  # fmt: skip
def test_compiled_steps_on_a_gpu_are_fused_unless_told_otherwise(monkeypatch, device, compiles, found, settled):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if found else None)
    config = Config(network=NetworkConfig(name="debug"), compile=CompileConfig(enabled=compiles))
    settle_fusion(config, torch.device(device))
    assert (config.network.fuse, config.network.fused_norm) == (settled, settled)
    config = Config(network=NetworkConfig(name="debug", fused_norm=False), compile=CompileConfig(enabled=compiles))
    settle_fusion(config, torch.device(device))
    assert (config.network.fuse, config.network.fused_norm) == (settled, False)
