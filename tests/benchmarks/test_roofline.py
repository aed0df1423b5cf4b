"""The roofline script on the miniature network, and its bounds for machines of known limits."""

import json
from types import SimpleNamespace

import pytest
import torch

import inception
from benchmarks import roofline
from benchmarks.measuring.counting import Kernel
from benchmarks.measuring.limits import Limits, photo_like_jpeg
from benchmarks.reporting.results import read_results


def limits(operations, bandwidth):
    rates = ((1, bandwidth), (2**30, bandwidth))
    return Limits({"fp32": operations, "bf16": operations}, rates)


def test_every_kernel_is_bound_by_its_slower_side():
    kernels = [Kernel("convolution", 1000, 10), Kernel("native_batch_norm", 0, 300)]
    bound = roofline.bound(kernels, limits(100.0, 10.0), "fp32")
    assert (bound.compute, bound.memory, bound.seconds, bound.by) == (
        10.0,
        pytest.approx(30.0),
        pytest.approx(40.0),
        "memory",
    )
    assert roofline.bound(kernels, limits(1.0, 10.0), "fp32").by == "compute"


def test_small_kernels_get_the_bandwidth_measured_for_small_ones():
    cache = Limits({}, ((100, 80.0), (10000, 20.0)))
    assert (cache.bandwidth(10), cache.bandwidth(1000), cache.bandwidth(10**9)) == (80.0, pytest.approx(50.0), 20.0)


def test_the_picture_for_decoding_is_the_same_every_time_and_as_large_as_a_photo():
    jpeg = photo_like_jpeg(500, 375)
    assert jpeg == photo_like_jpeg(500, 375)
    assert 40_000 < len(jpeg) < 60_000


def test_the_script_measures_this_machine(tmp_path, capsys):
    arguments = ["--networks", "debug", "--device", "cpu", "--seconds", "0.05", "--windows", "2", "--batch-size", "4"]
    assert roofline.main([*arguments, "--output", str(tmp_path)]) == 0
    result = read_results(tmp_path)[0]
    rows = {row.case["block"]: row for row in result["rows"]}
    assert {"limit: matrix product", "limit: JPEG decode, one thread", "stem", "inception_a", "whole"} <= set(rows)
    assert all(row.value > 0 for row in result["rows"] if row.failure is None)
    # The whole does the work of its blocks.
    blocks = [row for row in result["rows"] if row.case["network"] == "debug" and row.case["block"] != "whole"]
    assert sum(row.details["gmacs"] for row in blocks) == pytest.approx(rows["whole"].details["gmacs"])
    assert (tmp_path / result["pictures"][0]).stat().st_size > 10_000
    assert "G multiply-adds an image forward" in capsys.readouterr().out
    assert json.dumps(result["options"])


@pytest.mark.parametrize("bf16", [True, False])
def test_compiled_blocks_get_what_the_step_would_give_them(monkeypatch, bf16):
    """Fixed sizes, room for every block's graph, and under autocast in bf16 what the block before gives: bf16."""
    compiled, dtypes = [], []

    def compile_nothing(module, **options):
        compiled.append((options, torch._dynamo.config.recompile_limit))
        return module

    def observed(module, inputs, parameters, bf16):
        dtypes.append(inputs.dtype)
        return lambda: None

    monkeypatch.setattr(torch, "compile", compile_nothing)
    monkeypatch.setattr(roofline, "_training_pass", observed)
    network = inception.create_model("debug", 10, width=0.25)
    names = {name for name, _ in network.named_children()}
    options = SimpleNamespace(seconds=0.0, compile=True, windows=1)
    with torch._dynamo.config.patch(recompile_limit=8):
        roofline._measure(network, names, (2, 3, 32, 32), torch.device("cpu"), bf16, options)
    assert len(compiled) > 8
    assert all(given == {"dynamic": False} and limit > len(compiled) for given, limit in compiled)
    whole_and_first = 4  # images, of each way, as the loader gives them
    assert dtypes.count(torch.float32) == (whole_and_first if bf16 else len(dtypes))


@pytest.mark.gpu
def test_the_script_measures_a_gpu(tmp_path):
    arguments = ["--networks", "debug", "--seconds", "0.2", "--output", str(tmp_path)]
    assert torch.cuda.is_available()
    assert roofline.main(arguments) == 0
    rows = read_results(tmp_path)[0]["rows"]
    assert any(row.case["block"] == "limit: host to device" and row.value for row in rows)
