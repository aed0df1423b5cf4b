"""A run computes the same, to the last digit, however its images are stored."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from engine.config.command_line import load_config
from engine.config.data_options import DataConfig, NativeConfig
from engine.training import loaders
from engine.training.assembly import assemble
from engine.training.trainer import Trainer
from pipelines.prepare import main as prepare
from runs import computed
from tiny import make_tiny_dataset, tiny_options


@pytest.fixture(scope="module")
def curve(tmp_path_factory):
    """``curve(store)``: what two epochs on that store computed."""
    root = tmp_path_factory.mktemp("stores")
    data = make_tiny_dataset(root / "data")

    def computed_on(store: str):
        options = ["folder", data, "--to", "shards", "--store", store, "--output", root / store, "--workers", "1"]
        assert prepare([str(word) for word in options], None) == 0
        Trainer(assemble(load_config(tiny_options(root / store, root / f"run-{store}", schedule__epochs=2)))).fit()
        return computed(root / f"run-{store}")

    return computed_on


def test_losses_are_the_same_to_the_last_digit(curve):
    wanted = curve("jpeg")
    assert len([row for row in wanted if row["kind"] == "train"]) == 12
    assert curve("planes") == wanted
    assert curve("windows") == wanted


@pytest.mark.parametrize(("backend", "planes", "wanted"), [
    ("native", False, {"planes_on_device": True}), ("auto", True, {"planes_on_device": True}), ("auto", False, None),
])  # fmt: skip
def test_whether_a_gpu_resizes_planes_reaches_the_native_loader(monkeypatch, backend, planes, wanted):
    given = {}
    monkeypatch.setattr(loaders, "build_loader", lambda dataset, plan, backend, device, **how: given.update(how))
    data = DataConfig(backend=backend, native=NativeConfig(planes_on_device=True))
    loaders._loader(data, Mock(holds_planes=planes), Mock(), 8, 32, Mock(cores=1))
    assert given["settings"] == wanted
