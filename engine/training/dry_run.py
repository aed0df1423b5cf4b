"""What a run would be, without running it: its options, the shapes inside the network, its steps, its memory, its time."""

from collections.abc import Callable
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from engine.config.options import Config, OptimizerConfig
from engine.distributed.strategies import join
from engine.graphs.objective import Objective
from engine.runs.resuming import global_batch_size, goes_on
from engine.runs.run_directory import RunDirectory
from engine.training.assembly import assemble_step
from engine.training.expected_time import time_expected
from engine.training.fine_tuning import what_learns
from engine.training.introduction import a_step, decoded_otherwise, what_comes_out
from engine.training.loaders import open_splits, training_loader
from engine.training.optimizers import create_optimizer
from engine.training.schedules import require_room, resolution_at
from launch.environment import Environment, detect

_GIB = 2**30
_IMAGES = 2  # that the memory of activations is measured on: more than one, for batch normalisation


def dry_run(config: Config, say: Callable[[str], Any], environment: Environment | None = None) -> None:
    """Says what `config` would train, on this rank of `environment`, and writes nothing. Every rank must call it.

    Raises what `assemble` does for the same options.
    """
    environment = environment or detect()
    directory = RunDirectory(config.run.dir)
    config.data.global_batch_size = global_batch_size(config, directory)
    train, val = open_splits(config.data, progress=environment.local_rank == 0)
    communicator = join(environment, config.strategy, config.device)
    step = assemble_step(config, communicator, len(train.classes), goes_on(config, directory), train)
    with training_loader(config, train, step.network, step.batching, communicator) as loader:
        require_room(config.schedule, loader.plan.batches)
        steps, size, backend, reason = loader.plan.batches, loader.resolution, loader.backend, loader.reason
        others = decoded_otherwise(loader, communicator)
    sizes = sorted({resolution_at(epoch, size, config.progressive) for epoch in range(config.schedule.epochs)})
    device, batch = communicator.device, step.batching.batch_size
    # On every rank: synchronised normalisation waits for all.
    shapes = stage_shapes(step.objective, batch, size, device)
    activations = activation_bytes(step.objective, size, device) * batch / _GIB
    if communicator.is_main:
        say(yaml.safe_dump(config.to_dict(), sort_keys=False).rstrip())
        say(
            f"data: {len(train):,} images to train on, {len(val):,} to evaluate, {len(train.classes)} classes; "
            f"{backend} decoding ({reason})"
        )
        if others:
            say(others)
        say(f"images: {' to '.join(str(side) for side in dict.fromkeys((sizes[0], sizes[-1])))} pixels a side")
        for name, shape in shapes.items():
            say(f"  {name}: {' x '.join(map(str, shape))}")
        say(a_step(config, step.batching, communicator.world_size, steps))
        for line in (*what_comes_out(config, step.batching), *what_learns(step.network, config)):
            say(line)
        weights = sum(parameter.nbytes for parameter in step.network.parameters()) / _GIB
        copies = 2 + optimizer_copies(config.optimizer) + config.ema.averages
        say(
            f"memory of a rank, about: {copies * weights + activations:.2f} GiB = {copies:g} x {weights:.3f} of weights (with "
            f"gradients, optimizer and average) + {activations:.2f} of activations of {batch} images, uncompiled"
        )
        images, own_size = steps * step.batching.global_batch, step.network.input_size
        on_cpu = device.type == "cpu"
        say(
            time_expected(
                config, step.dtype, sizes, images, environment,
                on_cpu=on_cpu, own_size=own_size, backend=backend, batch=batch,
            )
        )  # fmt: skip
        say("dry run: nothing was trained or written")
    communicator.close()


def stage_shapes(objective: Objective, batch: int, size: int, device: torch.device) -> dict[str, tuple[int, ...]]:
    """The shape of what goes in and of what leaves each stage of the network, for a micro-batch of `batch` images."""
    network = objective.network
    shapes: dict[str, tuple[int, ...]] = {"images": (batch, network.in_channels, size, size)}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: shapes.update({name: (batch, *output.shape[1:])})

    named = [*((name, getattr(network, name)) for name in network.stages), ("classifier", network.classifier)]
    hooks = [module.register_forward_hook(keep(name)) for name, module in named]
    network.eval()
    with torch.no_grad():
        objective(*_gray(_IMAGES, size, device))
    network.train()
    for hook in hooks:
        hook.remove()
    return shapes


def activation_bytes(objective: Objective, size: int, device: torch.device) -> float:
    """Bytes that the forward pass keeps for the backward pass, for each image of `size` pixels a side."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in objective.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if isinstance(tensor, Tensor) and not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no other takes its place in memory
        return tensor

    objective.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        objective(*_gray(_IMAGES, size, device))
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights) / _IMAGES


def optimizer_copies(options: OptimizerConfig) -> float:
    """How many numbers the optimizer keeps for each weight of a layer, found by a step of a small one."""
    layer = nn.Linear(64, 64, bias=False)
    optimizer = create_optimizer(layer, options)
    layer(torch.ones(1, 64)).sum().backward()
    optimizer.step()
    kept = (value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))
    return round(sum(value.numel() for value in kept if value.ndim) / layer.weight.numel(), 1)


def _gray(count: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    images = torch.full((count, size, size, 3), 128, dtype=torch.uint8, device=device).permute(0, 3, 1, 2)
    return images, torch.zeros(count, dtype=torch.int64, device=device)
