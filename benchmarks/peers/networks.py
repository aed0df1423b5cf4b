"""torchvision's and timm's networks of the Inception family, with the training step of PyTorch's documentation."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NETWORK_PEERS = {
    "torchvision": ("inception_v3", "googlenet"),
    "timm": ("inception_v3", "inception_v4", "inception_resnet_v2"),
}
SETTING = "channels_last, fused SGD with momentum, autocast for bf16, auxiliary loss where the network has one"


def peers_of(network: str) -> list[str]:
    """Who else has this network."""
    return [source for source, names in NETWORK_PEERS.items() if network in names]


def build_peer(source: str, name: str, num_classes: int = 1000) -> nn.Module:
    """Another project's network with fresh weights, on the default device."""
    if source == "timm":
        import timm

        options: dict[str, Any] = {"aux_logits": True} if name == "inception_v3" else {}
        return timm.create_model(name, num_classes=num_classes, **options)
    import torchvision

    build = getattr(torchvision.models, name)
    return build(weights=None, num_classes=num_classes, aux_logits=True, init_weights=False)


def peer_loss(network: nn.Module, *, bf16: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of uint8 images (N, 3, H, W) and labels (N,), as our own step computes it."""

    def loss_of(images: Tensor, labels: Tensor) -> Tensor:
        pixels = (images.float() / 255 - 0.5) / 0.5
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            output = network(pixels)
        # torchvision gives a named tuple of (logits, auxiliary...), timm a plain one, without auxiliary head a tensor.
        logits, *auxiliary = output if isinstance(output, tuple) else (output,)
        heads = [head for head in auxiliary if head is not None]
        loss = F.cross_entropy(logits.float(), labels)
        return loss + sum(0.4 * F.cross_entropy(head.float(), labels) for head in heads)

    return loss_of


def peer_step(
    network: nn.Module, images: Tensor, labels: Tensor, *, bf16: bool, compile_mode: str | None
) -> Callable[[], Any]:
    """One optimizer step on uint8 `images` (N, 3, H, W) in channels_last, as our own step makes it."""
    network = network.to(images.device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), 1e-5, momentum=0.9, nesterov=True, fused=True)
    loss_of = peer_loss(network, bf16=bf16)
    forward = loss_of if compile_mode is None else torch.compile(loss_of, mode=compile_mode, dynamic=False)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        forward(images, labels).backward()
        optimizer.step()

    return step
