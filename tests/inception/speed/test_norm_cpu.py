"""Normalisation and ReLU in C against PyTorch in fp64, and where PyTorch's own operations must run instead."""

from __future__ import annotations

import copy
import subprocess

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import inception
from inception.speed import norm_cpu, norm_relu
from inception.speed.fused_norm import fuse_norms
from inception.speed.norm_cpu import NormRelu, row_stride
from inception.speed.norm_relu import norm_relu_on_cpu

# Rows that no block or thread divides, one channel, no width, one pixel; values whose mean is far from zero.
SHAPES = [(4, 64, 37, 33), (8, 3, 5, 5), (2, 100, 1, 9), (5, 1, 7, 7), (300, 48, 1, 1)]


def relative(found: Tensor, true: Tensor) -> float:
    return float((found.detach().double() - true.detach()).norm() / true.detach().norm())


def results(norm: nn.BatchNorm2d, function, x: Tensor, gradient: Tensor) -> list[Tensor]:
    """Output, gradients of input, weight and bias, running statistics."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = function(norm, x)
    y.backward(gradient)
    return [y, x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var]


def plain(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    return F.relu(norm(x))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("dtype", "offset", "limit"), [("float32", 0, 2e-6), ("float32", 1000, 2e-4), ("bfloat16", 0, 4e-3)]
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_computes_what_fp64_does(shape, dtype, offset, limit, threads, monkeypatch):
    torch.manual_seed(0)
    channels, kind = shape[1], getattr(torch, dtype)
    x = (2 * torch.randn(shape) + offset).to(kind).contiguous(memory_format=torch.channels_last)
    # The gradient of one branch is a slice of that of the concatenation.
    gradient = torch.randn(shape[0], channels + 32, *shape[2:]).to(kind).contiguous(memory_format=torch.channels_last)
    gradient = gradient[:, 16 : 16 + channels]
    norm = nn.BatchNorm2d(channels, eps=1e-3)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 1.5, channels))
        norm.bias.copy_(torch.linspace(1, -1, channels))
    # Where ReLU cuts off turns on the last digit, so values next to it are left out of the gradient.
    true_norm = copy.deepcopy(norm).double()
    near = copy.deepcopy(true_norm)(x.double()).abs() < 1e-3 * (1 + offset / 100)
    gradient.masked_fill_(near, 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found = results(norm, norm_relu_on_cpu, x, gradient)
    assert found[0].grad_fn.name() == "NormReluBackward"
    for ours, true in zip(found, results(true_norm, plain, x.double(), gradient.double()), strict=True):
        assert relative(ours, true) < limit
    assert norm.num_batches_tracked == true_norm.num_batches_tracked == 1


def test_a_weight_of_zero_learns():
    norm = nn.BatchNorm2d(4)
    nn.init.zeros_(norm.weight)
    nn.init.ones_(norm.bias)
    x = torch.randn(8, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    gradient = torch.randn_like(x)
    expected = results(copy.deepcopy(norm), plain, x, gradient)
    for ours, true in zip(results(norm, norm_relu_on_cpu, x, gradient), expected, strict=True):
        assert torch.allclose(ours, true, atol=1e-5)
    assert norm.weight.grad.abs().min() > 0


def test_what_is_not_a_number_stays_so():
    x = torch.randn(2, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    x[0, 1, 2, 2] = torch.nan
    y = norm_relu_on_cpu(nn.BatchNorm2d(4), x)
    assert y.isnan().any((0, 2, 3)).tolist() == [False, True, False, False]


def test_rows_are_found():
    x = torch.randn(2, 8, 5, 6).contiguous(memory_format=torch.channels_last)
    assert row_stride(x) == row_stride(x[:, 2:6]) == 8
    assert row_stride(x.contiguous()) is row_stride(x[..., 1:]) is row_stride(x.transpose(2, 3)) is None


def test_the_debug_network_trains_alike():
    """Twenty steps: the same losses within what rounding grows to, which another seed exceeds by far."""
    curves = []
    for fused, seed in ((None, 0), (False, 0), (False, 1)):
        torch.manual_seed(seed)
        network = inception.create_model("debug", 4, width=0.25, dropout=0.0, auxiliary=False, fused_norm=fused)
        network = network.to(memory_format=torch.channels_last).train()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
        torch.manual_seed(2)
        images = torch.randn(16, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        labels = torch.arange(16) % 4
        losses = []
        for _ in range(20):
            loss = F.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves.append(torch.tensor(losses))
    ours, plain_curve, other = curves
    assert ours[-1] < ours[0]
    assert (ours - plain_curve).abs().max() < 0.02 * (plain_curve - other).abs().max()


@pytest.mark.parametrize(
    "case", ["evaluation", "fp64", "channels first", "no running statistics", "synchronised", "compiled"]
)
def test_pytorch_does_what_it_cannot(case, monkeypatch):
    called = []
    monkeypatch.setattr(NormRelu, "apply", lambda *arguments: called.append(arguments))
    norm, x = nn.BatchNorm2d(4), torch.randn(2, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    if case == "evaluation":
        norm.eval()
    elif case == "fp64":
        norm, x = norm.double(), x.double()
    elif case == "channels first":
        x = x.contiguous()
    elif case == "no running statistics":
        norm = nn.BatchNorm2d(4, track_running_stats=False)
    elif case == "synchronised":
        norm = nn.SyncBatchNorm(4).eval()  # in training it wants a process group
    else:
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    expected = plain(copy.deepcopy(norm), x)
    assert torch.equal(norm_relu_on_cpu(norm, x), expected)
    assert not called


def test_without_a_c_compiler_pytorch_does_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    compiled, reason = norm_cpu.library.__wrapped__()
    assert compiled is None
    assert "cc" in reason
    monkeypatch.setattr(norm_relu, "library", lambda: (None, reason))
    norm, x = nn.BatchNorm2d(4), torch.randn(2, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    assert torch.equal(norm_relu_on_cpu(norm, x), plain(copy.deepcopy(norm), x))


def test_a_c_compiler_that_fails_is_quoted(tmp_path, monkeypatch):
    def fail(command, **options):
        raise subprocess.CalledProcessError(1, command, stderr="norm_cpu.c:1: error: no such thing\n")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(norm_cpu.subprocess, "run", fail)
    assert norm_cpu.library.__wrapped__() == (None, "norm_cpu.c:1: error: no such thing")


def test_units_without_normalisation_stay_plain():
    assert fuse_norms(inception.create_model("debug", 10, batch_norm=False), None) == 0
