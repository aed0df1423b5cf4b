"""GPUs that were asked for, by whom or what, on machines that this one is not."""

from __future__ import annotations

import pytest

from engine.distributed.gpu_request import gpus_asked_for


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
