"""Joules where NVML counts them, and why there are none where it does not."""

import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks.measuring.energy import EnergyMeter


class NVMLError(Exception):
    pass


def fail(*_):
    raise NVMLError("Not Supported")


@pytest.fixture
def nvml(monkeypatch):
    """An NVML whose counter grows by 5 J a reading."""
    readings = iter(range(0, 100_000, 5000))
    library = SimpleNamespace(
        NVMLError=NVMLError, nvmlInit=lambda: None, nvmlDeviceGetHandleByUUID=lambda identifier: identifier,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(readings),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="1-2-3"))
    return library


def test_energy_is_what_the_counter_grew_by(nvml):
    meter = EnergyMeter(torch.device("cuda", 0))
    assert (meter.joules(), meter.joules(), meter.reason) == (5.0, 10.0, "")


@pytest.mark.parametrize("refused", ["nvmlInit", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetTotalEnergyConsumption"])
def test_a_gpu_that_nvml_does_not_count_for_has_none(nvml, monkeypatch, refused):
    """As of a part of a GPU (MIG), whose identifier is another and whose counter is missing."""
    monkeypatch.setattr(nvml, refused, fail)
    meter = EnergyMeter(torch.device("cuda", 0))
    assert meter.joules() is None
    assert "Not Supported" in meter.reason


def test_without_a_gpu_there_is_nothing_to_count():
    meter = EnergyMeter(torch.device("cpu"))
    assert (meter.joules(), meter.reason) == (None, "no GPU in use")
