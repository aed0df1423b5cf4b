"""Windows, turns and failures of the side-by-side timing, with work whose duration the test chooses."""

import subprocess
import sys
import time

import psutil
import pytest

from benchmarks.measuring import measure
from benchmarks.measuring.machine import processor_seconds
from benchmarks.measuring.measure import Window, alternate, drained, repeated


def test_subjects_take_turns_in_an_order_that_reverses():
    calls = []

    def subject(name):
        def window():
            calls.append(name)
            return Window(1, 1.0)

        return window

    measured = alternate({"a": subject("a"), "b": subject("b")}, windows=3, warmup=1)
    assert calls == ["b", "a", "a", "b", "b", "a", "a", "b"]
    assert [len(m.windows) for m in measured.values()] == [3, 3]  # the warm-up is not among them


def test_the_warm_up_is_thrown_away_and_its_time_is_kept(clock):
    durations = iter([0.2, 0.01, 0.01])

    def window():
        seconds = next(durations)
        time.sleep(seconds)
        return Window(1, seconds)

    measured = alternate({"compiles first": window}, windows=2, warmup=1)["compiles first"]
    assert min(measured.rates) == pytest.approx(100)
    assert measured.warmup_seconds == pytest.approx(0.2)


def test_a_subject_that_fails_is_listed_and_the_others_go_on():
    def broken():
        raise RuntimeError("no kernel\nand a long explanation")

    measured = alternate({"broken": broken, "works": lambda: Window(5, 1.0)}, windows=2)
    assert measured["broken"].failure == "RuntimeError: no kernel"
    assert measured["broken"].windows == []
    assert measured["works"].rates == [5.0, 5.0]


def test_a_budget_ends_the_rounds_early_but_not_before_one(clock):
    def window():
        time.sleep(0.02)
        return Window(1, 0.02)

    assert len(alternate({"a": window}, windows=100, warmup=0, budget_seconds=0.05)["a"].windows) == 2
    assert len(alternate({"a": window}, windows=100, warmup=0, budget_seconds=0)["a"].windows) == 1


def test_repeated_calls_until_the_time_is_over_and_at_least_so_often():
    calls = []
    window = repeated(lambda: calls.append(0), 8, seconds=0.0, least=4)()
    assert len(calls) == len(window.steps) == 4
    assert window.units == 32
    assert sum(window.steps) == pytest.approx(window.seconds)


class Batches:
    """A loader whose first batch takes long to come."""

    def __init__(self, count):
        self.count, self.closed = count, False

    def __iter__(self):
        for number in range(self.count):
            time.sleep(0.1 if number == 0 else 0.001)
            yield [0] * 4

    def close(self):
        self.closed = True


def test_a_pass_is_read_to_its_end_without_the_start_of_the_workers(clock):
    source = Batches(12)
    window = drained(lambda: source, ahead=2)()
    assert window.units == 10 * 4
    assert window.seconds == pytest.approx(0.01)
    assert source.closed


@pytest.mark.parametrize(("ahead", "rate"), [(2, 1.5), (8, 1.0), (12, 1.0)])
def test_what_a_loader_made_before_the_window_does_not_count(monkeypatch, ahead, rate):
    """A loader that makes a batch of one image a second, eight of them before they are asked for, on a clock of its own."""
    now = 0.0

    def passes():
        nonlocal now
        asked = [now] * 8  # eight are asked for when a pass begins, then one more with each that is taken
        made = now
        for number in range(20):
            made = max(made, asked[number]) + 1.0
            now = max(now, made) if number else made + 7.0  # the first is waited for until all eight are there
            asked.append(now)
            yield [0]

    monkeypatch.setattr(measure.time, "perf_counter", lambda: now)
    assert drained(passes, ahead=ahead)().rate == pytest.approx(rate)


def test_a_pass_left_early_is_closed_and_one_too_short_is_an_error(clock):
    source = Batches(1000)
    assert drained(lambda: source, ahead=1, seconds=0.0199)().units == 4 * 20
    assert source.closed
    with pytest.raises(ValueError, match="too short"):
        drained(lambda: Batches(2), ahead=2)()


def test_the_cores_of_a_loader_are_those_of_its_workers_too():
    """A pass whose process waits while another one that it started computes, until it has computed for so long."""
    busy = "import itertools\nfor _ in itertools.count(): pass"

    def passes():
        worker = subprocess.Popen([sys.executable, "-c", busy])
        try:
            for batch in range(8):
                while psutil.Process(worker.pid).cpu_times().user < 0.1 * batch:
                    time.sleep(0.01)
                yield [0]
        finally:
            worker.kill()
            worker.wait()

    window = drained(passes, ahead=2)()
    assert window.cores * window.seconds > 0.5
    before = processor_seconds()
    subprocess.run([sys.executable, "-c", "sum(range(20_000_000))"], check=True)
    assert processor_seconds() - before > 0  # of a process that has ended


def test_faster_means_more_units_a_second():
    measured = alternate({"a": lambda: Window(30, 1.0), "b": lambda: Window(10, 1.0)}, windows=3)
    assert measured["a"].over(measured["b"]).value == pytest.approx(3.0)
