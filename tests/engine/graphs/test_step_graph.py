"""What a compiled step consists of: one graph without breaks, and an update of a handful of operations, however many weights
there are."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from engine.config.options import LossConfig, OptimizerConfig
from engine.distributed.sync_batchnorm import synchronise_batchnorm
from engine.graphs.criterion import Criterion
from engine.graphs.objective import Objective, build_objective
from engine.graphs.teacher import Teacher
from engine.training.optimizers import create_optimizer
from engine.training.weight_averaging import Ema
from inception import create_model

# The variants of benchmarks/gpu.sh, whose Triton kernels tests/inception/speed/test_fused_norm.py compiles.
VARIANTS = {
    "plain": {},
    "padded": {"pad_channels": 4},
    "everything": {"fuse": True, "fused_norm": True, "pad_channels": 8},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_normalisation_network_and_losses_are_one_graph(variant):
    network = create_model("debug", 10, width=0.5, **VARIANTS[variant]).to(memory_format=torch.channels_last).train()
    assert_one_graph(build_objective(network, LossConfig(label_smoothing=0.1), dtype=torch.bfloat16))


def test_what_fine_tuning_adds_is_in_the_same_graph():
    network = create_model("inception_resnet_v1", 4, width=0.125, drop_path=0.5, auxiliary=False).train()
    network.freeze(["stem"], batch_norm=True)
    criterion = Criterion(binary=False, class_weights=torch.ones(4))
    teacher = Teacher(create_model("debug", 4, width=0.5), 32, [3, 2, 1, 0], temperature=2.0, weight=0.5)
    objective = build_objective(network, LossConfig(), torch.bfloat16, criterion, teacher)
    assert_one_graph(objective, size=75)


def test_statistics_of_all_ranks_do_not_cut_the_graph():
    """Where torch cannot trace an exchange between ranks, it runs all of the objective uncompiled."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        network = create_model("debug", 10, width=0.5).to(memory_format=torch.channels_last).train()
        synchronise_batchnorm(network, torch.device("cpu"), compiled=True)
        assert_one_graph(build_objective(network, LossConfig(), dtype=torch.float32))
    finally:
        dist.destroy_process_group()


def assert_one_graph(objective: Objective, size: int = 32) -> None:
    images = torch.randint(0, 256, (4, size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    torch._dynamo.reset()
    explained = torch._dynamo.explain(objective)(images, torch.tensor([0, 1, 2, 3]))
    assert (explained.graph_count, explained.graph_break_count) == (1, 0), explained.break_reasons


class Operations(TorchDispatchMode):
    """Counts the operations that reach the device."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if not name.startswith("_record_function"):  # profiler's marks
            self.seen[name] += 1
        return func(*args, **kwargs or {})


def operations_of_an_update(options: OptimizerConfig, width: float = 0.25) -> Counter:
    network = create_model("debug", 10, width=width)
    optimizer, ema = create_optimizer(network, options), Ema(network, 0.99)
    if options.name != "sgd":
        for group in optimizer.param_groups:
            group["foreach"] = True  # what timm's optimizers choose on a GPU
    for step in (1, 2):  # the first also makes the optimizer's state
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        with Operations() as operations:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            ema.update(step)
    return operations.seen


def test_optimizer_and_average_are_a_handful_of_operations():
    """One for each group of weights and one for all averages."""
    assert operations_of_an_update(OptimizerConfig(name="sgd")) == {"_fused_sgd_": 2, "_foreach_lerp_": 1}


def test_rmsprop_works_on_all_weights_at_once():
    seen = operations_of_an_update(OptimizerConfig(name="rmsprop", weight_decay=1e-4))
    assert sum(seen.values()) < 30, seen
