"""How many steps a window has, whatever the first steps of a compiled one are busy with."""

from types import SimpleNamespace

import pytest

from benchmarks.measuring import workload
from engine.config.options import CompileConfig


def recorded(monkeypatch, costs, compiling):
    """A workload whose steps take `costs` seconds in turn, the last of them from then on."""
    clock = [0.0]
    monkeypatch.setattr(workload, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def step():
        clock[0] += costs.pop(0) if len(costs) > 1 else costs[0]

    made = object.__new__(workload.Workload)
    made.config = SimpleNamespace(compile=compiling)
    made.communicator = SimpleNamespace(gather=lambda value: [value])
    made.first_step_seconds, made.step, made._wait = None, step, lambda: None
    return made


@pytest.mark.parametrize(
    ("mode", "enabled", "costs"),
    [
        ("default", False, [4.0, 0.1]),
        ("default", True, [60.0, 0.1]),
        ("reduce-overhead", True, [60.0, 3.0, 2.0, 0.1]),  # compiled; warmed up; recorded; played
        ("max-autotune", True, [60.0, 3.0, 2.0, 0.1]),
    ],
)
def test_steps_that_compile_warm_up_and_record_are_not_taken_for_steps(monkeypatch, mode, enabled, costs):
    first = costs[0]
    made = recorded(monkeypatch, costs, CompileConfig(enabled=enabled, mode=mode))
    assert made.steps_in(1.0) == 10
    assert made.first_step_seconds == first
    assert made.steps_in(1.0) == 10
