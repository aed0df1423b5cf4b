"""The Triton kernels of normalisation and ReLU against PyTorch in fp64: in Triton's interpreter, on a GPU where there is one,
and through the compiler for the GPUs that they are made for; and that they are off where they cannot serve."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch

import inception
from inception.speed import norm_relu as norm_relu_module
from inception.speed.folding import fold_batch_norm
from inception.speed.fused_norm import fuse_norms
from inception.speed.norm_relu import can_fuse, norm_relu, norm_relu_on_cpu
from inception.vocabulary.modules import ConvUnit

DRIVER = "tests/inception/speed/fused_norm_driver.py"
INTERPRETER = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
# What output and gradient are rounded to; the interpreter cuts bf16 off, where hardware rounds to the nearest.
PRECISION = {"bf16": 2.0**-8, "fp16": 2.0**-11}


def report(run_command, device: str, part: str, env: dict[str, str]) -> dict:
    done = run_command([DRIVER, device, part], env=env)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def check_kernels(found: dict) -> None:
    """Output, gradients and running statistics are as near to fp64 as PyTorch's own in the same precision."""
    assert len(found["cases"]) == 10 + 2 + 5 + 11 + 7
    for name, errors in found["cases"].items():
        assert len(errors["fused"]) == len(errors["plain"]) == 6
        for position, (fused, plain) in enumerate(zip(errors["fused"], errors["plain"])):
            kind = "bf16" if "bfloat16" in name else name
            rounding = PRECISION.get(kind, 0.0) if position < 2 else 0.0
            assert fused <= max(3 * plain, 3e-6, rounding), (name, position)
    assert found["taken"].pop("training") is True
    assert len(found["taken"]) == 7
    assert not any(found["taken"].values()), found["taken"]
    assert found["nan"] is True
    assert len(found["pools"]) == 5
    for name, (output, gradient) in found["pools"].items():
        assert output == 0, name
        assert gradient < 2 * PRECISION["bf16"], name


def check_networks(found: dict, tolerance: float) -> None:
    plain, fused, other = (found["curves"][name] for name in ("plain", "fused", "another seed"))
    assert min(plain[1:]) < plain[0]
    noise = max(abs(a - b) for a, b in zip(plain, other))
    assert max(abs(a - b) for a, b in zip(plain, fused)) < tolerance * noise
    assert fused != plain  # other kernels did run
    compiled = found["compiled"]
    assert (compiled["graphs"], compiled["breaks"]) == (1, 0)
    # A block's units are normalised level by level, each once.
    assert 5 < compiled["normalisations"] <= compiled["units"] // 2
    assert compiled["batches"] == [1] * compiled["units"]
    assert max(compiled["difference"], compiled["statistics"]) < 1e-4


def test_kernels_compute_what_fp64_does(run_command):
    check_kernels(report(run_command, "cpu", "kernels", INTERPRETER))


def test_networks_train_the_same_and_compile_to_one_graph(run_command):
    """A short training agrees with the plain one's losses far better than that of another seed."""
    check_networks(report(run_command, "cpu", "networks", INTERPRETER), tolerance=0.05)


def test_kernels_compile_for_hopper(run_command):
    sizes = report(run_command, "cpu", "for-sm90", {"TRITON_INTERPRET": "0"})["bytes"]
    assert len(sizes) == 6
    assert min(sizes.values()) > 1000


@pytest.mark.gpu
def test_the_same_on_a_gpu(run_command):
    check_kernels(report(run_command, "gpu", "kernels", {}))
    check_networks(report(run_command, "gpu", "networks", {}), tolerance=0.2)


def test_with_neither_a_gpu_nor_a_compiler_they_are_off_by_themselves(monkeypatch):
    """Bit for bit the same network: outputs, gradients, statistics."""
    monkeypatch.setattr(norm_relu_module, "library", lambda: (None, "no C compiler"))
    networks = []
    for fused in (False, True):
        torch.manual_seed(0)
        networks.append(inception.create_model("debug", 10, width=0.5, fused_norm=fused))
    plain, fused = networks
    assert fuse_norms(fused) == sum(isinstance(module, ConvUnit) for module in fused.modules())
    assert list(fused.state_dict()) == list(plain.state_dict())
    images = torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    assert not can_fuse(
        fused.stem[0].bn.train(), torch.randn(2, 16, 8, 8).contiguous(memory_format=torch.channels_last)
    )
    for network in networks:
        sum(logits.sum() for logits in network(images)).backward()
    for (name, ours), theirs in zip(fused.named_parameters(), plain.parameters()):
        assert torch.equal(ours.grad, theirs.grad), name
    for (name, ours), theirs in zip(fused.named_buffers(), plain.buffers()):
        assert torch.equal(ours, theirs), name
    # In evaluation, and with normalisations folded away, nothing is left of them.
    assert torch.equal(fused.eval()(images), plain.eval()(images))
    assert torch.allclose(fold_batch_norm(fused)(images), plain(images), atol=1e-5)
    assert fuse_norms(fused, enabled=False) == 0


def test_without_triton_or_unasked_they_are_for_cpus_alone(monkeypatch):
    network = inception.create_model("debug", 10, width=0.25)
    units = [unit for unit in network.modules() if isinstance(unit, ConvUnit)]
    assert {unit.norm_relu for unit in units} == {norm_relu_on_cpu}
    assert fuse_norms(network) == len(units)
    assert {unit.norm_relu for unit in units} == {norm_relu}
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "triton" else find(name))
    fuse_norms(network)
    assert {unit.norm_relu for unit in units} == {norm_relu_on_cpu}
    assert fuse_norms(inception.create_model("debug", 10, width=0.25, batch_norm=False)) == 0
