"""Which GPU a rank uses, by what its launcher shows it."""

import pytest
import torch

from engine.config.options import ConfigError
from engine.distributed import device
from launch.environment import Environment


@pytest.fixture
def gpus(monkeypatch):
    """A machine with GPUs, whose number a test sets; `chosen` are those that were set up."""
    machine = type("Machine", (), {"count": 8, "chosen": []})()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: machine.count)
    monkeypatch.setattr(torch.cuda, "set_device", lambda chosen: machine.chosen.append(chosen))
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    return machine


def rank(local_rank, ranks, launcher):
    return Environment(local_rank, ranks, local_rank, ranks, master_port=1, launcher=launcher)


def test_a_rank_uses_the_gpu_of_its_number(gpus):
    assert device.choose_device(rank(3, 8, "torchrun")) == torch.device("cuda", 3)
    assert gpus.chosen == [torch.device("cuda", 3)]


@pytest.mark.parametrize("launcher", ["slurm", "openmpi", "mpich"])
def test_a_rank_that_is_shown_one_gpu_uses_that(gpus, launcher):
    """As with `srun --gpus-per-task=1`, where every rank's own GPU is number 0."""
    gpus.count = 1
    assert device.choose_device(rank(3, 8, launcher)) == torch.device("cuda", 0)


@pytest.mark.parametrize(("launcher", "count"), [("torchrun", 1), ("deepspeed", 1), ("variables", 1), ("slurm", 4)])
def test_fewer_gpus_than_ranks_are_one_line(gpus, launcher, count):
    gpus.count = count
    with pytest.raises(ConfigError, match=rf"8 processes on a machine with {count} GPUs"):
        device.choose_device(rank(3, 8, launcher))
