"""What test_fused_norm.py judges, computed in a process of its own, since Triton decides when it is imported
whether its kernels are interpreted: python fused_norm_driver.py cpu|gpu kernels|networks|for-sm90 prints one JSON object.

On a CPU the environment must have TRITON_INTERPRET=1, but for "for-sm90", which compiles and runs nothing.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import inception
from inception.speed import norm_kernels, norm_operators
from inception.speed.fused_norm import fuse_norms
from inception.speed.norm_relu import can_fuse, max_pool_on_gpu, norm_relu, norm_relu_joined, norm_relu_of_all
from inception.vocabulary.modules import CoveringMaxPool2d, MaxPool2d
from interpreting import stay_patched

DEVICE = torch.device("cuda" if sys.argv[1] == "gpu" else "cpu")
# Name: shape, type, mean of the numbers (their deviation is 2).
CASES: dict[str, tuple[tuple[int, int, int, int], torch.dtype, float]] = {
    "one channel": ((2, 1, 5, 7), torch.float32, 0.0),
    "three channels": ((3, 3, 9, 11), torch.float32, 1.0),
    "rows that no tile divides": ((2, 100, 13, 7), torch.float32, -1.0),
    "many programs": ((2, 64, 19, 17), torch.float32, 0.5),
    "one pixel an image": ((7, 192, 1, 1), torch.float32, 0.0),
    "a large mean": ((2, 32, 24, 24), torch.float32, 1000.0),
    "bf16": ((4, 80, 11, 9), torch.bfloat16, 1.0),
    "fp16": ((2, 48, 11, 9), torch.float16, 1.0),
}


def normalisation(channels: int) -> nn.BatchNorm2d:
    bn = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.3)
    bn.weight.data.uniform_(-0.5, 1.5)
    bn.bias.data.normal_(0, 0.5)
    bn.running_mean.normal_()
    bn.running_var.uniform_(0.5, 2)
    return bn.to(DEVICE)


def relative(ours: Tensor, exact: Tensor) -> float:
    return ((ours.double() - exact).norm() / exact.norm().clamp_min(1e-12)).item()


def exact_results(bn: nn.BatchNorm2d, x: Tensor, dy: Tensor) -> list[Tensor]:
    """Output, gradients of x, weight and bias, running mean and variance, by PyTorch in fp64."""
    bn, x = copy.deepcopy(bn).double(), x.detach().double().requires_grad_()
    y = F.relu(bn(x))
    y.backward(dy.double())
    return [y.detach(), x.grad, bn.weight.grad, bn.bias.grad, bn.running_mean, bn.running_var]


def without_ties(bn: nn.BatchNorm2d, x: Tensor, dy: Tensor) -> Tensor:
    """`dy` where ReLU's input is clearly on one side of zero, else 0: at zero itself rounding decides."""
    z = copy.deepcopy(bn).double()(x.double())
    return torch.where(z.abs() > 1e-2, dy, torch.zeros_like(dy))


def results_of(bn: nn.BatchNorm2d, y: Tensor, x: Tensor) -> list[Tensor]:
    """What `exact_results` gives, after a backward pass."""
    return [y.detach(), x.grad, bn.weight.grad, bn.bias.grad, bn.running_mean, bn.running_var]


def errors(bn: nn.BatchNorm2d, x: Tensor, dy: Tensor) -> list[float]:
    """Relative errors of the six results of the kernels."""
    exact = exact_results(bn, x, dy)
    x = x.detach().requires_grad_()
    assert can_fuse(bn, x)
    y = norm_relu(bn, x)
    y.backward(dy)
    assert y.dtype == x.dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert bn.num_batches_tracked == 1
    return [relative(a, b) for a, b in zip(results_of(bn, y, x), exact)]


def plain_errors(bn: nn.BatchNorm2d, x: Tensor, dy: Tensor) -> list[float]:
    """The same of PyTorch in the precision of x."""
    exact = exact_results(bn, x, dy)
    x = x.detach().requires_grad_()
    y = F.relu(bn(x))
    y.backward(dy)
    return [relative(a, b) for a, b in zip(results_of(bn, y, x), exact)]


def together(channels: list[int], dtype: torch.dtype, copied: int | None = None) -> dict[str, dict[str, list[float]]]:
    """Errors of parts of so many channels, each by itself and joined into one tensor, where part `copied` is no unit's. Every
    second part is a slice of a wider tensor, and so is every second gradient."""
    bns = [normalisation(count) for count in channels]
    xs = [(2 * channels_last(2, 2 * c, 9, 7) + 1).to(dtype)[:, c // 2 : c // 2 + c] for c in channels]
    xs = [x if place % 2 else x.contiguous(memory_format=torch.channels_last) for place, x in enumerate(xs)]
    dys = [without_ties(bn, x, channels_last(*x.shape).to(dtype)) for bn, x in zip(bns, xs)]
    exact = [exact_results(bn, x, dy) for bn, x, dy in zip(bns, xs, dys)]
    report = {}
    for way in ("apart", "joined"):
        mine, inputs = copy.deepcopy(bns), [x.detach().requires_grad_() for x in xs]
        if way == "apart":
            ys = norm_relu_of_all(mine, inputs)
            assert all(y.is_contiguous(memory_format=torch.channels_last) for y in ys)
            torch.autograd.backward(ys, dys)
        else:
            joined = norm_relu_joined([bn if i != copied else None for i, bn in enumerate(mine)], inputs)
            assert joined.is_contiguous(memory_format=torch.channels_last)
            ys = joined.split(channels, 1)
            joined.backward(torch.cat(dys, 1))
        for place, (bn, y, x) in enumerate(zip(mine, ys, inputs)):
            name = f"{way}: part {place} of {channels} in {dtype}"
            if way == "joined" and place == copied:
                assert torch.equal(y, x)
                assert torch.equal(x.grad, dys[place])
                continue
            assert bn.num_batches_tracked == 1
            plain = plain_errors(copy.deepcopy(bns[place]), xs[place], dys[place])
            found = [relative(a, b) for a, b in zip(results_of(bn, y, x), exact[place])]
            report[name] = {"fused": found, "plain": plain}
    return report


def channels_last(*shape: int) -> Tensor:
    return torch.randn(*shape, device=DEVICE).contiguous(memory_format=torch.channels_last)


def all_cases() -> dict[str, dict[str, list[float]]]:
    results = {}
    for name, (shape, dtype, mean) in CASES.items():
        bn = normalisation(shape[1])
        x = (2 * channels_last(*shape) + mean).to(dtype)
        dy = without_ties(bn, x, channels_last(*shape).to(dtype))
        results[name] = {"fused": errors(copy.deepcopy(bn), x, dy), "plain": plain_errors(copy.deepcopy(bn), x, dy)}
    # Slices of wider tensors: what a wide convolution gives to a branch, and a concatenation's gradient.
    bn = normalisation(24)
    x, dy = channels_last(2, 64, 13, 11)[:, 8:32], channels_last(2, 40, 13, 11)[:, 16:]
    results["slices"] = {"fused": errors(copy.deepcopy(bn), x, dy), "plain": plain_errors(copy.deepcopy(bn), x, dy)}
    # A gradient that a compiler left in the other memory format.
    x, dy = channels_last(2, 24, 13, 11), torch.randn(2, 24, 13, 11, device=DEVICE)
    results["another layout"] = {"fused": errors(copy.deepcopy(bn), x, dy), "plain": plain_errors(bn, x, dy)}
    results |= together([8], torch.float32)
    results |= together([24, 5, 64], torch.float32, copied=1)
    results |= together([16, 16, 48, 3, 130, 8], torch.float32, copied=0)
    return results | together([32, 48, 16, 24], torch.bfloat16, copied=3)


def pools() -> dict[str, list[float]]:
    """Relative errors of output and gradient of maximum pooling against PyTorch in fp64, of every kind that networks have."""
    kinds = {
        "stride 2": (MaxPool2d(3, 2), (2, 24, 13, 10)), "ceil": (MaxPool2d(3, 2, ceil_mode=True), (2, 24, 12, 14)),
        "same size": (MaxPool2d(3, 1, 1), (2, 5, 7, 6)), "over the border": (MaxPool2d(2, 2, ceil_mode=True), (1, 16, 7, 5)),
        "covering": (CoveringMaxPool2d(3, 2), (2, 16, 9, 7)),
    }  # fmt: skip
    report = {}
    for name, (pool, shape) in kinds.items():
        pool = pool.train()
        pool.pooled = max_pool_on_gpu
        x = channels_last(*shape).to(torch.bfloat16).requires_grad_()  # rounded, so that some are equal
        y = pool(x)
        assert y.grad_fn is not None
        assert "pooled" in str(y.grad_fn) or name == "covering"
        exact = x.detach().double().requires_grad_()
        pool.pooled = None
        expected = pool(exact)
        dy = torch.randn_like(expected)
        dy = dy.to(torch.bfloat16)
        y.backward(dy)
        expected.backward(dy.double())
        report[name] = [relative(y.detach(), expected.detach()), relative(x.grad, exact.grad)]
    x = channels_last(1, 4, 5, 5)
    x[0, 1, 2, 2] = float("nan")
    assert max_pool_on_gpu(MaxPool2d(3, 2), x).isnan().any((0, 2, 3)).tolist() == [False, True, False, False]
    assert max_pool_on_gpu(MaxPool2d(3, 2), x.contiguous()) is None
    return report


def what_is_taken() -> dict[str, bool]:
    """Whether the kernels are used, for what they can do and for what they cannot."""
    x, bn = channels_last(2, 8, 4, 4), normalisation(8)
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(normalisation(8))
    cumulative = normalisation(8)
    cumulative.momentum = None
    return {
        "training": can_fuse(bn, x),
        "evaluation": can_fuse(normalisation(8).eval(), x),
        "SyncBN": can_fuse(synchronised, x),
        "no momentum": can_fuse(cumulative, x),
        "no statistics": can_fuse(nn.BatchNorm2d(8, track_running_stats=False).to(DEVICE), x),
        "fp64": can_fuse(bn, x.double()),
        "channels first": can_fuse(bn, x.contiguous(memory_format=torch.contiguous_format)),
        "one value": can_fuse(bn, x[:1, :, :1, :1]),
    }


def not_a_number() -> bool:
    """Whether what is not a number comes out as such."""
    x = channels_last(2, 8, 4, 4)
    x[0, 3, 2, 1] = float("nan")
    y = norm_relu(normalisation(8), x)
    return bool(y[:, 3].isnan().all()) and not bool(y[:, :3].isnan().any())


def curves(steps: int = 3) -> dict[str, list[float]]:
    """Losses of the miniature on noise with a pattern for each class: plain, fused, and plain with another seed."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (steps, 16), generator=generator)
    patterns = torch.randn(2, 3, 16, 16, generator=generator)
    images = patterns[labels] + 0.3 * torch.randn(steps, 16, 3, 16, 16, generator=generator)

    def curve(seed: int, fused: bool) -> list[float]:
        torch.manual_seed(seed)
        network = inception.create_model("debug", 2, width=0.25, fused_norm=fused, fuse=fused, auxiliary=False)
        network.to(DEVICE).to(memory_format=torch.channels_last).train()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.2, momentum=0.9)
        losses = []
        for batch, answers in zip(images.to(DEVICE), labels.to(DEVICE)):
            loss = F.cross_entropy(network(batch.contiguous(memory_format=torch.channels_last)), answers)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    return {"plain": curve(0, False), "fused": curve(0, True), "another seed": curve(1, False)}


def gradients_under_ddp(network: nn.Module, images: Tensor) -> list[Tensor]:
    """The gradients of `network` as the only rank of a group."""
    network.zero_grad()
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    wrapped = nn.parallel.DistributedDataParallel(network, static_graph=True, gradient_as_bucket_view=True)
    wrapped(images).square().sum().backward()
    gradients = [parameter.grad.clone() for parameter in network.parameters()]
    torch.distributed.destroy_process_group()
    return gradients


def graphs() -> dict[str, object]:
    """The miniature, compiled without inductor: graphs, breaks, our operators in the forward graph, and the difference of its
    gradients, and of those under DistributedDataParallel, from the eager ones."""
    torch.manual_seed(0)
    network = inception.create_model("debug", 4, width=0.25, fused_norm=True, fuse=True, auxiliary=False).to(DEVICE)
    network.to(memory_format=torch.channels_last).train()
    again = copy.deepcopy(network)
    images = channels_last(4, 3, 16, 16)
    seen: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        seen.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    torch.compile(network, backend=backend, dynamic=False)(images).square().sum().backward()
    again(images).square().sum().backward()
    distributed = gradients_under_ddp(copy.deepcopy(again), images)
    operators = [str(node.target) for graph in seen for node in graph.graph.nodes if "inception" in str(node.target)]
    return {
        "graphs": len(seen),
        "breaks": sum(torch._dynamo.utils.counters["graph_break"].values()),
        "normalisations": sum("normalise_relu" in name for name in operators),
        "units": fuse_norms(again),
        "batches": [int(buffer) for name, buffer in network.named_buffers() if name.endswith("num_batches_tracked")],
        "difference": max(
            (gradient - q.grad).norm().item() / max(q.grad.norm().item(), 1e-3)
            for gradients in ([p.grad for p in network.parameters()], distributed)
            for gradient, q in zip(gradients, again.parameters(), strict=True)
        ),
        "statistics": max(
            (a - b).abs().max().item() for a, b in zip(network.buffers(), again.buffers()) if a.is_floating_point()
        ),
    }


def compiled_for_hopper() -> dict[str, int]:
    """Bytes of machine code of every kernel, compiled for compute capability 9.0 as for bf16 activations of 192 channels."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    rows, channels = norm_operators.tile([192])
    given = {"ROWS": rows, "CHANNELS": channels, "BLOCKS": 1024, "COLUMNS": 4, "COUNT": 4, "NORMED": 3, "JOINED": False}
    given |= {"MOMENTUM": 0.1, "EPS": 1e-3, "STAGES": norm_operators.STAGES}
    sizes = {}
    for kernel in norm_kernels.KERNELS:
        constants = {key: value for key, value in given.items() if key in kernel.arg_names}
        types = {key: "constexpr" if key in constants else argument_type(key) for key in kernel.arg_names}
        source = ASTSource(fn=kernel, signature=types, constexprs=constants)
        sizes[kernel.__name__] = len(triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"])
    return sizes


def argument_type(name: str) -> str:
    """Triton's name for the type of a kernel's argument."""
    if name in ("rows", "channels", "blocks", "columns", "width") or (name[0] in "cstp" and name[1:].isdigit()):
        return "i32"
    kinds = {"x": "*bf16", "y": "*bf16", "d": "*bf16", "n": "*i64"}
    return kinds.get(name[0], "*fp32") if name[1:].isdigit() else "*fp32"


def main() -> None:
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False
    if norm_kernels.INTERPRETED:
        stay_patched()
    if sys.argv[2] == "kernels":
        report: dict[str, object] = {
            "cases": all_cases(),
            "taken": what_is_taken(),
            "nan": not_a_number(),
            "pools": pools(),
        }
    elif sys.argv[2] == "networks":
        if norm_kernels.INTERPRETED:
            # There, every program costs milliseconds; on a GPU such a tile compiles for minutes.
            norm_operators.TILE *= 16
            norm_operators.SUM_TILE *= 16
            norm_operators.MERGED *= 16
        report = {"curves": curves(), "compiled": graphs()}
    else:
        report = {"bytes": compiled_for_hopper()}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
