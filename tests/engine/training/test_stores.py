"""A run computes the same, to the last digit, however its images are stored."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from engine.config.command_line import load_config
from engine.config.data_options import DataConfig, NativeConfig
from engine.training import loaders
from engine.training.assembly import assemble
from engine.training.introduction import decoded_otherwise, introduce
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


NONE = "chosen; --data.native.planes_on_device true changes nothing: the dataset holds no planes"


@pytest.mark.parametrize(("backend", "planes", "wanted", "reason"), [
    ("native", False, True, "chosen"),  # it says so itself
    ("auto", True, True, "chosen"),
    ("auto", False, None, NONE),
    ("dali", False, None, NONE),
    ("ffcv", False, None, NONE),
    ("synthetic", True, None, NONE.replace("the dataset holds no planes", "nothing is read")),
])  # fmt: skip
def test_whether_a_gpu_resizes_planes_reaches_the_native_loader_or_is_said_to_change_nothing(
    monkeypatch, backend, planes, wanted, reason
):
    build = Mock(side_effect=lambda *_, **__: Mock(reason="chosen"))
    monkeypatch.setattr(loaders, "build_loader", build)
    for asked in (True, False):
        data = DataConfig(backend=backend, native=NativeConfig(planes_on_device=asked))
        loader = loaders._loader(data, Mock(holds_planes=planes), Mock(), 8, 32, Mock(cores=1))
        settings = build.call_args.kwargs["settings"] or {}
        assert settings.get("planes_on_device") == (wanted and asked)
        assert loader.reason == (reason if asked else "chosen")


def test_ranks_that_fall_back_are_named():
    def said(*ways: tuple[str, str, str]) -> str:
        gathered = [((backend, remark), why + remark) for backend, why, remark in ways]
        backend, why, remark = ways[0]
        return decoded_otherwise(
            Mock(backend=backend, reason=why + remark, remark=remark), Mock(gather=lambda own: gathered)
        )

    on_gpu, on_cpu = "; planes are resized on the GPU", "; planes are resized on the CPU: Triton is not installed"
    assert said(("native", "asked for", on_gpu)) == ""
    # Rates that were measured differ from machine to machine.
    assert said(("dali", "on this machine: dali 9", ""), ("dali", "on this machine: dali 8", "")) == ""
    assert said(
        *[("native", "asked for", on_gpu)] * 2, *[("native", "asked for", on_cpu)] * 2, ("dali", "faster", "")
    ) == (
        f"not all ranks decode as the first: ranks 2, 3: native decoding (asked for{on_cpu}); rank 4: dali decoding (faster)"
    )


@pytest.mark.usefixtures("signals")
def test_a_run_says_so_at_its_start(tiny_run, monkeypatch, capsys):
    run = assemble(load_config(tiny_run()[1:]))
    with run.closing():
        monkeypatch.setattr(
            run.communicator, "gather", lambda own: [own, (("native", "; slower"), "asked for; slower")]
        )
        introduce(run)
    assert "not all ranks decode as the first: rank 1: native decoding (asked for; slower)\n" in capsys.readouterr().out
