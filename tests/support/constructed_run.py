"""A run directory made of numbers alone, as training leaves it behind: for the tests of the report."""

import json
import math
import random
from pathlib import Path
from typing import Any

import torch
import yaml

from engine.config.options import Config
from engine.evaluation.findings import thumbnail
from engine.runs.metrics_file import MetricsFile


def construct_run(
    path: Path,
    *,
    classes: int = 10,
    epochs: int = 30,
    rows: int = 5,
    gpu: bool = False,
    ended: str | None = "completed",
    resumed_in: int | None = None,
) -> Path:
    """Writes a run of `epochs` epochs with `rows` rows each to `path`; `ended` None leaves it unfinished."""
    path.mkdir(parents=True, exist_ok=True)
    chance = random.Random(0)
    file, lines = MetricsFile(path / "metrics.jsonl"), []
    time, step, samples = 12.0, 0, 0
    for epoch in range(epochs):
        if epoch == resumed_in:
            lines.append({"kind": "event", **_position(step, epoch, samples, time), "event": "resumed"})
        for part in range(rows):
            step, samples, time = step + 20, samples + 1280, time + 2.0
            place = epoch + (part + 1) / rows
            lines.append(_train_row(_position(step, place, samples, time), place / epochs, chance, gpu))
        time += 1.5
        lines.append(_eval_row(_position(step, epoch + 1, samples, time), (epoch + 1) / epochs, 50 * classes))
    if ended:
        end = {"reason": ended, "best_top1": 80.0, "seconds_to_target": time if ended == "target" else None}
        lines.append({"kind": "end", **_position(step, epochs, samples, time), **end})
    file.path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = Config()
    config.run.dir, config.schedule.epochs = str(path), epochs
    (path / "config.yaml").write_text(yaml.safe_dump(config.to_dict(), sort_keys=False))
    (path / "environment.json").write_text(json.dumps(_environment(gpu)))
    findings = _findings(classes, chance)
    (path / "evaluation.json").write_text(json.dumps({**lines[-2 if ended else -1], **findings}))
    return path


def _position(step: int, epoch: float, samples: int, time: float) -> dict[str, Any]:
    return {"step": step, "epoch": round(epoch, 4), "samples": samples, "time": time}


def _train_row(position: dict[str, Any], done: float, chance: random.Random, gpu: bool) -> dict[str, Any]:
    row = {
        "kind": "train", **position,
        "loss": 1.2 + 1.6 * math.exp(-4 * done) + chance.gauss(0, 0.05),
        "top1": 82 - 70 * math.exp(-4 * done) + chance.gauss(0, 1.5),
        "lr": 0.05 * (1 + math.cos(math.pi * done)),
        "gradient_norm": 1.5 + chance.random(),
        "images_per_second": 640 + chance.gauss(0, 20),
        "images_per_second_epoch": 640.0,
        "seconds": 2.0,
        "data_wait_fraction": 0.04 + 0.02 * chance.random(),
        "forward_fraction": 0.28, "backward_fraction": 0.5, "communication_fraction": 0.06, "optimizer_fraction": 0.03,
        "memory_gib": 3.1, "cpu_cores": 7.5,
    }  # fmt: skip
    if gpu:
        row |= {"gpu_memory_gib": 61.2, "gpu_utilization": 0.97, "gpu_power_watts": 5200.0 + chance.gauss(0, 60)}
        row |= {"images_per_joule": 3.9 + chance.gauss(0, 0.05)}
    return row


def _eval_row(position: dict[str, Any], done: float, count: int) -> dict[str, Any]:
    top1 = 80 - 70 * math.exp(-4 * done)
    figures = {"top1": top1, "top5": min(top1 + 15, 99), "loss": 0.9 + 1.5 * math.exp(-4 * done), "seconds": 1.5}
    return {"kind": "eval", **position, **figures, "count": count, "unreadable": 0}


def _environment(gpu: bool) -> dict[str, Any]:
    return {
        "command": "engine/train.py", "host": "node1", "system": "Linux", "processor": "a processor", "cores": 16,
        "gpus": ["a GPU"] * 8 if gpu else [], "python": "3.11", "packages": {"torch": "2.15.0"},
        "git": "0123456789abcdef", "git_changed_files": 0,
    }  # fmt: skip


def _findings(classes: int, chance: random.Random) -> dict[str, Any]:
    """50 images a class; class k is right in `right[k]` of them and else taken for three others."""
    right = [chance.randint(10, 48) for _ in range(classes)]
    matrix = []
    for true, hits in enumerate(right):
        counts = {true: hits}
        for part in (0.5, 0.3):
            guess = chance.choice([k for k in range(classes) if k != true])
            counts[guess] = counts.get(guess, 0) + round(part * (50 - hits))
        counts[(true + 1) % classes] = counts.get((true + 1) % classes, 0) + 50 - sum(counts.values())
        matrix += [[true, guess, count] for guess, count in sorted(counts.items()) if count]
    names = [f"class <{k}> & co" for k in range(classes)]
    picture = thumbnail((torch.arange(3 * 32 * 32) % 256).view(3, 32, 32).byte())
    pictures = [
        {
            "name": f"val.tar:{k}",
            "label": k % classes,
            "guess": (k + wrong) % classes,
            "confidence": 0.9,
            "jpeg": picture,
        }
        for wrong in (1, 0)
        for k in range(12)
    ]
    return {"classes": names, "images": [50] * classes, "right": right, "matrix": matrix, "pictures": pictures}
