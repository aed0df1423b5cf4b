"""GPUs that were asked for, by whom or what, on machines that this one is not; and never quietly the CPU instead."""

from __future__ import annotations

import pytest
import torch

from engine.config.options import ConfigError
from engine.distributed.device import choose_device, compute_dtype, idle_gpus
from engine.distributed.gpu_request import gpus_asked_for
from launch.environment import Environment


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, None),
        ({"SLURM_GPUS_ON_NODE": "4"}, "SLURM_GPUS_ON_NODE=4"),
        ({"SLURM_GPUS_ON_NODE": "0"}, None),
        ({"SLURM_JOB_GPUS": "0"}, "SLURM_JOB_GPUS=0"),  # a list: the first GPU
        ({"SLURM_STEP_GPUS": "2,3"}, "SLURM_STEP_GPUS=2,3"),
        ({"CUDA_VISIBLE_DEVICES": "0"}, "CUDA_VISIBLE_DEVICES=0"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8c5f", "SLURM_GPUS_ON_NODE": "1"}, "CUDA_VISIBLE_DEVICES=GPU-8c5f"),
        ({"CUDA_VISIBLE_DEVICES": ""}, None),
        ({"CUDA_VISIBLE_DEVICES": "-1", "SLURM_GPUS_ON_NODE": "4"}, None),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, None),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "CROSS_SIZE": "1"}, None),  # by DeepSpeed's launcher
    ],
)
def test_variables_that_ask_for_gpus(tmp_path, variables, found):
    assert gpus_asked_for(variables, tmp_path) == found


def test_device_files_ask_for_gpus_unless_they_are_hidden(tmp_path):
    (tmp_path / "dev").mkdir()
    for name in ("nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    assert gpus_asked_for({}, tmp_path) is None  # the driver alone
    (tmp_path / "dev" / "nvidia1").touch()
    assert gpus_asked_for({}, tmp_path) == f"the device file {tmp_path}/dev/nvidia1"
    assert gpus_asked_for({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) is None


@pytest.fixture
def without_gpu(monkeypatch):
    """torch can use no GPU here, and what choosing a device sets up does not stay."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "0")
    yield
    torch.set_num_threads(threads)


def test_the_cpu_where_nothing_asks_for_a_gpu(without_gpu):
    assert choose_device(Environment()).type == "cpu"


@pytest.mark.parametrize("variable", ["SLURM_GPUS_ON_NODE", "CUDA_VISIBLE_DEVICES"])
def test_a_gpu_that_was_asked_for_and_cannot_be_used_is_refused(without_gpu, monkeypatch, variable):
    monkeypatch.setenv(variable, "4")
    with pytest.raises(
        ConfigError, match=rf"^{variable}=4 asks for a GPU, and torch .* can use none \(.+\): .* --device cpu$"
    ):
        choose_device(Environment())
    assert choose_device(Environment(), "cpu").type == "cpu"


def test_cuda_is_taken_at_its_word(without_gpu):
    with pytest.raises(ConfigError, match="--device cuda asks for a GPU"):
        choose_device(Environment(), "cuda")


def test_the_cpu_is_taken_beside_gpus_when_it_was_asked_for(without_gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device(Environment(), "cpu").type == "cpu"


def test_idle_gpus_are_mentioned(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert idle_gpus(Environment(), torch.device("cuda", 0)).startswith("7 of the 8 GPUs of this machine stand idle")
    assert idle_gpus(Environment(world_size=8, local_world_size=8), torch.device("cuda", 0)) is None
    assert idle_gpus(Environment(), torch.device("cpu")) is None


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bf16_is_chosen_where_the_gpu_computes_it_natively(monkeypatch, native, dtype):
    """torch says that GPUs before Ampere support it, and emulates it."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert compute_dtype("auto", torch.device("cuda", 0)) == dtype
    assert compute_dtype("bf16", torch.device("cuda", 0)) == torch.bfloat16
    assert compute_dtype("fp16", torch.device("cuda", 0)) == torch.float16
