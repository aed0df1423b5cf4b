"""What a run records and shows: rows, phases, the machine; a bar on a terminal and plain lines elsewhere."""

from __future__ import annotations

import functools
import io
import math
import os
import shutil
import types
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from engine.distributed.communicator import Communicator
from engine.monitoring import progress_bar
from engine.monitoring.hardware import Gpus, Hardware, open_gpus
from engine.monitoring.monitor import Monitor
from engine.monitoring.progress_bar import StepBar
from engine.monitoring.trackers.tensorboard import TensorBoard
from engine.runs.metrics_file import MetricsFile
from launch.environment import Environment
from runs import rows

PHASES = ("data_wait_fraction", "forward_fraction", "backward_fraction", "optimizer_fraction")


def single() -> Communicator:
    return Communicator(Environment(), torch.device("cpu"))


def test_rows_of_a_real_run_tell_time_phases_and_memory(real_run):
    for row in rows(real_run):
        assert 0 < sum(row[phase] for phase in PHASES) <= 1.0005, row
        assert 0.05 < row["memory_gib"] < 64
        assert row["cpu_cores"] > 0
        assert row["gradient_norm"] > 0
        assert row["images_per_second"] == pytest.approx(16 / row["seconds"], rel=0.05, abs=1)
        assert not {"gpu_utilization", "gpu_power_watts", "images_per_joule", "communication_fraction"} & row.keys()


def test_speed_over_the_epoch_is_that_of_its_rows_together(real_run):
    """Between its rows are the seconds that recording them takes; the run's own clock began before the epoch."""
    epoch = rows(real_run)[:6]
    speed = 6 * 16 / sum(row["seconds"] for row in epoch)
    assert 6 * 16 / epoch[-1]["time"] < epoch[-1]["images_per_second_epoch"] < 1.01 * speed + 0.1


def test_tensorboard_holds_the_numbers_of_the_rows(real_run):
    events = EventAccumulator(str(real_run / "tensorboard")).Reload()
    for kind, name in (("train", "forward_fraction"), ("train", "memory_gib"), ("eval", "top1")):
        stored = [(event.step, event.value) for event in events.Scalars(f"{kind}/{name}")]
        expected = [(row["step"], pytest.approx(row[name], rel=1e-5)) for row in rows(real_run, kind)]
        assert stored == expected


@pytest.mark.parametrize("name", [b"run", b"r\xfcn"], ids=["plain", "not UTF-8"])
def test_tensorboard_shows_no_step_twice_after_a_resume(tmp_path, name):
    run = tmp_path / os.fsdecode(name)
    run.mkdir()
    for steps, loss in ((range(1, 7), 1.0), (range(5, 9), 2.0), (range(8, 11), 3.0)):
        metrics = MetricsFile(run / "metrics.jsonl")
        metrics.rewind(steps[0] - 1)
        curves = TensorBoard(run / "tensorboard")
        where = types.SimpleNamespace(directory=types.SimpleNamespace(metrics=metrics))
        monitor = Monitor(run, is_main=True, on_row=functools.partial(curves.on_row, where))
        for step in steps:
            place = {"step": step, "epoch": step / 4, "samples": step, "time": 10.0 * step}
            measured = {"images_per_second": 1.0, "data_wait_fraction": 0.0}
            monitor.record("train", **place, loss=loss, top1=1.0, lr=0.1, **measured)
        monitor.close()
        curves.close()
    [file] = (run / "tensorboard").iterdir()
    shutil.copy(file, tmp_path)  # TensorBoard's reader wants names in UTF-8
    events = list(EventFileLoader(str(tmp_path / file.name)).Load())[1:]
    assert [event.step for event in events] == list(range(1, 11))
    losses = EventAccumulator(str(tmp_path)).Reload().Scalars("train/loss")
    assert [event.value for event in losses] == [1.0] * 4 + [2.0] * 3 + [3.0] * 3
    times = [event.wall_time for event in losses]
    assert times == sorted(times)
    assert times[7] - times[0] == pytest.approx(70, abs=0.1)


def test_a_trace_of_the_steps_asked_for_is_written_and_announced(real_run):
    import gzip
    import json

    [trace] = (real_run / "profile").iterdir()
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    steps = {event["name"] for event in events if event.get("name", "").startswith("ProfilerStep#")}
    assert len(steps) == 3
    assert any("convolution" in event.get("name", "") for event in events)
    assert str(trace) in (real_run.parent / "stdout").read_text()


def row_values(**values) -> dict:
    position = {"step": 20, "epoch": 0.5, "samples": 1280, "time": 4.0}
    figures = {"loss": 1.5, "top1": 40.0, "lr": 0.1, "images_per_second": 321.0, "data_wait_fraction": 0.25}
    return position | figures | values


@pytest.fixture
def shown(tmp_path: Path):
    """``shown(terminal) -> (monitor, output)``"""
    monitors = []

    def make(terminal: bool) -> tuple[Monitor, io.StringIO]:
        monitor, output = Monitor(tmp_path, is_main=True), io.StringIO()
        monitor._console = Console(file=output, force_terminal=terminal, width=120, highlight=False)
        monitors.append(monitor)
        return monitor, output

    yield make
    for monitor in monitors:
        monitor.close()


def test_a_terminal_shows_a_bar_with_the_figures_and_the_time_left(shown):
    monitor, output = shown(terminal=True)
    monitor.begin(steps=100, done=0, epochs=2)
    for _ in range(20):
        monitor.advance(epoch=0)
    monitor.record("train", **row_values())
    text = output.getvalue()
    for part in ("epoch", "1/2", "20%", "loss", "1.500", "40.0%", "321", "25%"):
        assert part in text


@pytest.mark.parametrize("width", [80, 94, 120])
def test_the_bar_fits_the_terminal_without_cutting_a_figure(width):
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=width, color_system=None)
    bar = StepBar(console, steps=45000, done=44990, epochs=90)
    bar.record(row_values(images_per_second=12345.0, data_wait_fraction=0.12))
    bar.show(epoch="89/90", doing="1 h 24 min left")
    line = output.getvalue().split("\x1b[2K")[-1]
    bar.close()
    for part in ("epoch 89/90", "loss 1.500", "top-1 40.0%", "12,345 img/s", "wait 12%", "1 h 24 min left"):
        assert part in line
    assert len(line.strip("\r")) <= width


def test_rows_of_every_step_keep_no_step_from_being_drawn(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress_bar, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    screen = io.StringIO()
    bar = StepBar(Console(file=screen, force_terminal=True, width=120), steps=40, done=0, epochs=2)
    row = {"loss": 1.0, "top1": 50.0, "images_per_second": 100.0, "data_wait_fraction": 0.0}
    for step in range(40):
        now[0] += 0.1
        bar.advance(step // 20)
        bar.record(row)
    bar.close()
    assert "epoch 2/2" in screen.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert " left" in screen.getvalue()
    assert "100 img/s" in screen.getvalue()


def test_a_pipe_gets_plain_lines_without_control_characters(shown):
    monitor, output = shown(terminal=False)
    monitor.begin(steps=100, done=0, epochs=2)
    monitor.advance(epoch=0)
    monitor.record("train", **row_values())
    monitor.record("train", **row_values(step=40))
    monitor.record("eval", **{**row_values(step=40), "top5": 80.0, "count": 1000, "unreadable": 0, "seconds": 1.0})
    text = output.getvalue()
    assert "\x1b" not in text
    assert text.count("step ") == 1  # the second row came too soon after the first
    assert "val top-1 40.00%" in text


def test_other_ranks_neither_speak_nor_write(tmp_path):
    monitor = Monitor(tmp_path, is_main=False)
    monitor.begin(10, 0, 1)
    monitor.advance(0)
    monitor.record("train", **row_values())
    monitor.report()
    monitor.say("nothing")
    monitor.close()
    assert list(tmp_path.iterdir()) == []


class FakeNvml(types.ModuleType):
    """Two GPUs that use 200 and 300 watts, 50 joules a reading, at 80% and 90%."""

    class NVMLError(Exception):
        pass

    def __init__(self, counts_energy: bool = True):
        super().__init__("pynvml")
        self.counts_energy, self.readings = counts_energy, 0

    def nvmlDeviceGetUtilizationRates(self, gpu):
        return types.SimpleNamespace(gpu=80 + 10 * gpu)

    def nvmlDeviceGetPowerUsage(self, gpu):
        return 200_000 + 100_000 * gpu

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu):
        if not self.counts_energy:
            raise self.NVMLError("not supported")
        self.readings += 1
        return 25_000 * (self.readings // 2)


def test_images_per_joule_come_from_the_energy_counters():
    gpus = Gpus(FakeNvml(), [0, 1])
    before = gpus._energy
    row = gpus.row(images=500, seconds=0.1)
    joules = gpus._energy - before
    gpus.close()
    assert row["gpu_utilization"] == pytest.approx(0.85)
    assert row["images_per_joule"] == pytest.approx(500 / joules)
    assert row["gpu_power_watts"] == pytest.approx(joules / 0.1)


def test_without_energy_counters_power_and_time_stand_in():
    gpus = Gpus(FakeNvml(counts_energy=False), [0, 1])
    row = gpus.row(images=1000, seconds=2.0)
    gpus.close()
    assert row["gpu_power_watts"] == pytest.approx(500.0)
    assert row["images_per_joule"] == pytest.approx(1000 / (500.0 * 2.0))


def test_a_gpu_that_tells_nothing_leaves_the_keys_out():
    silent = FakeNvml(counts_energy=False)

    def refuse(gpu):
        raise silent.NVMLError("not supported")

    silent.nvmlDeviceGetUtilizationRates = silent.nvmlDeviceGetPowerUsage = refuse
    gpus = Gpus(silent, [0, 1])
    assert gpus.row(images=10, seconds=1.0) == {}
    gpus.close()


def test_without_nvml_a_warning_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    with pytest.warns(UserWarning, match="pip install nvidia-ml-py"):
        assert open_gpus(1) is None


def test_a_cpu_run_measures_its_process_alone():
    hardware = Hardware(single())
    assert sum(math.sqrt(k) for k in range(200_000)) > 0
    row = hardware.row(images=10)
    hardware.close()
    assert set(row) == {"memory_gib", "cpu_cores"}
    assert 0 < row["cpu_cores"] < 64  # how much depends on what else runs here
    assert row["memory_gib"] > 0.05


@pytest.mark.gpu
def test_a_gpu_run_tells_utilization_power_and_images_per_joule():
    communicator = Communicator(Environment(), torch.device("cuda", 0))
    hardware = Hardware(communicator)
    values = torch.randn(4096, 4096, device="cuda")
    for _ in range(200):
        values = values @ values / 64
    torch.cuda.synchronize()
    row = hardware.row(images=100)
    hardware.close()
    assert {"gpu_memory_gib", "gpu_utilization", "gpu_power_watts", "images_per_joule"} <= row.keys()
    assert 10 < row["gpu_power_watts"] < 2000
    assert row["gpu_memory_gib"] > 0.05
