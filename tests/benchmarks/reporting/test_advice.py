"""The verdict: on figures made up for each limiter, and on parts that are really slow."""

import time
from dataclasses import replace

import pytest

from benchmarks.measuring.measure import Window, alternate, drained, repeated
from benchmarks.reporting.advice import Observation, judge

FED = Observation(
    step=100, data=500, end_to_end=99, waiting=0.01, bound=150, bound_by="compute", cores=8, workers=8, compiled=True
)


def test_a_step_that_is_fed_is_limited_by_the_device():
    verdict = judge(FED)
    assert verdict.limiter == "compute"
    assert verdict.change == {}
    assert "67% is reached" in verdict.words
    assert judge(replace(FED, bound_by="memory")).limiter == "memory bandwidth"


def test_faster_arithmetic_then_fusion_then_a_larger_batch_are_proposed():
    slow = replace(FED, bound=400, compiled=False, bf16_is_faster=True)
    assert judge(slow).change == {"precision": "bf16"}
    assert judge(replace(slow, bf16=True)).change == {"compile.enabled": "true"}
    assert judge(replace(slow, bf16=True, compiled=True)).change == {"data.batch_size": "64"}


def test_a_loader_with_cores_to_spare_gets_as_many_threads_as_the_step_needs():
    verdict = judge(replace(FED, data=40, end_to_end=39, waiting=0.6, workers=2, on_cpu=False))
    assert verdict.limiter == "input"
    assert verdict.change == {"data.workers": "5"}  # 40 images/s from 2 threads: 100 need 5
    assert "--data.workers 5 instead of 2 would bring up to 100 images/s" in verdict.words


def test_a_loader_without_cores_to_spare_needs_other_images_or_another_machine():
    verdict = judge(replace(FED, data=40, end_to_end=39, waiting=0.6, on_cpu=False))
    assert (verdict.limiter, verdict.change) == ("input", {})
    assert "20 threads would be needed" in verdict.words


def test_cores_shared_by_decoding_and_computing_are_named():
    verdict = judge(replace(FED, data=300, end_to_end=75, waiting=0.1))
    assert (verdict.limiter, verdict.change) == ("input", {})
    assert "share 8 cores, which allows 75" in verdict.words


def test_an_uneven_loader_gets_more_batches_ahead():
    verdict = judge(replace(FED, data=300, end_to_end=60, waiting=0.3, on_cpu=False))
    assert verdict.change == {"data.prefetch": "4"}


def test_a_slow_link_is_named_with_the_share_it_costs():
    verdict = judge(replace(FED, without_exchange=150))
    assert verdict.limiter == "communication"
    assert "33% of the time" in verdict.words
    assert verdict.change == {"data.batch_size": "64"}
    # Twice the batch: two thirds of a step stay, the third that is exchange halves an image.
    assert "would bring about 120;" in verdict.words


def test_a_host_that_cannot_launch_fast_enough_is_named():
    verdict = judge(replace(FED, host_share=0.97, on_cpu=False))
    assert verdict.limiter == "host"
    assert verdict.change["compile.mode"] == "reduce-overhead"


def measured_parts(step_seconds, load_seconds, link_seconds):
    """Parts of a training that sleeps, as throughput.py measures them, on a machine with cores to spare."""

    def step():
        time.sleep(step_seconds + link_seconds)

    def end_to_end():
        started = time.perf_counter()
        waited = 0.0
        for _ in range(4):  # the loader works while the step does: one waits for the other's rest
            wait = max(0.0, load_seconds - step_seconds - link_seconds)
            time.sleep(wait)
            waited += wait
            step()
        elapsed = time.perf_counter() - started
        shares.append(waited / elapsed)
        return Window(4 * 8, elapsed)

    def batches():
        for _ in range(6):
            time.sleep(load_seconds)
            yield [0] * 8

    shares = []
    subjects = {
        "step": repeated(step, 8, seconds=0, least=4),
        "data": drained(batches, ahead=2),
        "end to end": end_to_end,
        "without exchange": repeated(lambda: time.sleep(step_seconds), 8, seconds=0, least=4),
    }
    measured = {name: m.rate.median for name, m in alternate(subjects, windows=3, warmup=0).items()}
    return Observation(
        measured["step"], measured["data"], measured["end to end"], max(shares), 2000.0, "compute",
        without_exchange=measured["without exchange"], on_cpu=False, workers=1, cores=4,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "limiter"),
    [
        ({"step_seconds": 0.01, "load_seconds": 0.04, "link_seconds": 0.0}, "input"),
        ({"step_seconds": 0.04, "load_seconds": 0.01, "link_seconds": 0.0}, "compute"),
        ({"step_seconds": 0.01, "load_seconds": 0.005, "link_seconds": 0.03}, "communication"),
    ],
)
def test_what_is_really_slow_is_what_is_named(clock, seconds, limiter):
    assert judge(measured_parts(**seconds)).limiter == limiter


def test_a_noisy_measurement_does_not_blame_a_loader_that_is_never_waited_for():
    seen = Observation(step=4.2, data=1400.0, end_to_end=3.8, waiting=0.0, bound=6.6, bound_by="compute", cores=2)
    assert judge(seen).limiter == "compute"
    starved = Observation(step=4.2, data=1400.0, end_to_end=3.8, waiting=0.1, bound=6.6, bound_by="compute", cores=2)
    assert judge(starved).limiter == "input"
