"""The whole training that people would write: PyTorch and torchvision in the manner of torchvision's reference script.

    python benchmarks/peers/train.py '{"data": "DIR", "network": "debug", "epochs": 30, "target": 45, ...}'

The settings are those that benchmarks/peers/whole_runs.py gives. ImageFolder, Pillow transforms to normalised float tensors,
DataLoader workers, SGD with Nesterov momentum, warm-up and cosine, label smoothing, evaluation on the resized centre after
every epoch. Prints a JSON object an epoch, then one with the seconds to the target, counted from the end of the imports.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from inception import create_model


def main(arguments: Sequence[str]) -> int:
    options = SimpleNamespace(**json.loads(arguments[0]))
    started = time.monotonic()
    torch.manual_seed(options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    train, val = _loaders(options)
    classes = len(train.dataset.classes)  # type: ignore[attr-defined]
    network = create_model(options.network, classes, **options.options).to(device)
    settings = {"momentum": 0.9, "weight_decay": options.weight_decay, "nesterov": True}
    optimizer = torch.optim.SGD(network.parameters(), options.lr, **settings)
    warmup = max(1, round(options.warmup_epochs * len(train)))
    rise = LinearLR(optimizer, start_factor=0.01, total_iters=warmup)
    fall = CosineAnnealingLR(optimizer, T_max=max(1, options.epochs * len(train) - warmup))
    schedule = SequentialLR(optimizer, [rise, fall], milestones=[warmup])
    criterion = nn.CrossEntropyLoss(label_smoothing=options.label_smoothing)
    best, reached, images, evaluating = 0.0, None, 0, 0.0
    for epoch in range(options.epochs):
        images += _train_epoch(network, train, criterion, optimizer, schedule, device, options.bf16)
        evaluation = time.monotonic()
        top1 = _evaluate(network, val, device, options.bf16)
        evaluating += time.monotonic() - evaluation
        best, seconds = max(best, top1), time.monotonic() - started
        print(json.dumps({"epoch": epoch + 1, "top1": top1, "seconds": round(seconds, 3)}), flush=True)
        if top1 >= options.target:
            reached = seconds
            break
    seconds = time.monotonic() - started
    end = {"best_top1": best, "seconds_to_target": reached, "seconds": seconds, "evaluation_seconds": evaluating}
    print(json.dumps(end | {"images_per_second": images / (seconds - evaluating)}), flush=True)
    return 0


def _loaders(options: Any) -> tuple[DataLoader, DataLoader]:
    finish = [transforms.ToTensor(), transforms.Normalize(options.mean, options.std)]
    crop = transforms.RandomResizedCrop(options.resolution, scale=tuple(options.crop_scale))
    train = transforms.Compose([crop, transforms.RandomHorizontalFlip(), *finish])
    resize = transforms.Resize(round(options.resolution / options.crop_fraction))
    val = transforms.Compose([resize, transforms.CenterCrop(options.resolution), *finish])

    def loader(split: str, transform: Any, training: bool) -> DataLoader:
        return DataLoader(
            ImageFolder(f"{options.data}/{split}", transform), options.batch_size, shuffle=training, drop_last=training,
            num_workers=options.workers, persistent_workers=options.workers > 0, pin_memory=torch.cuda.is_available(),
        )  # fmt: skip

    return loader("train", train, True), loader("val", val, False)


def _train_epoch(
    network: nn.Module, loader: DataLoader, criterion: nn.Module, optimizer: Any, schedule: Any, device: Any, bf16: bool
) -> int:
    network.train()
    images = 0
    for image, target in loader:
        image, target = image.to(device, non_blocking=True), target.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            output = network(image)
            loss = loss_of(output, target, criterion, network.auxiliary_weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        images += len(target)
    return images


def loss_of(output: Tensor | tuple[Tensor, ...], target: Tensor, criterion: nn.Module, weights: Any) -> Tensor:
    """The loss of a network's output, logits (N, classes), to which auxiliary logits are added by their weights."""
    logits, *auxiliary = output if isinstance(output, tuple) else (output,)
    extra = (weight * criterion(head, target) for weight, head in zip(weights, auxiliary))
    return criterion(logits, target) + sum(extra)


def _evaluate(network: nn.Module, loader: DataLoader, device: torch.device, bf16: bool) -> float:
    network.eval()
    right = count = 0
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for image, target in loader:
            guesses = network(image.to(device, non_blocking=True)).argmax(dim=1)
            right += int((guesses.cpu() == target).sum())
            count += len(target)
    return 100 * right / count


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
