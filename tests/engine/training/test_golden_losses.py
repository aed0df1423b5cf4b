"""The losses of a short training, as they have always been: a change that alters them must say why.

`golden_losses.json` holds them to seven digits. Between processors they differ in rounding, which training amplifies: by at
most 3e-5 over these steps among AVX-512, AVX2 and no vector instructions, so that TOLERANCE tells rounding from change.
`python tests/engine/training/test_golden_losses.py` writes the file anew.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = Path(__file__).with_name("golden_losses.json")
TOLERANCE = 5e-4
OPTIONS = {
    "network.name": "debug", "precision": "fp32", "data.backend": "native", "data.global_batch_size": 16,
    "data.batch_size": 16, "schedule.epochs": 4, "schedule.kind": "constant", "optimizer.lr": 0.002, "ema.decay": 0.9,
    "loss.label_smoothing": 0.1, "augmentation.colour": 0.5, "monitor.every_steps": 1,
}  # fmt: skip


def losses(data: Path, run: Path) -> dict[str, list[float]]:
    """The training loss of each step and the validation loss of each epoch, in this process."""
    from engine import Trainer, assemble, load_config

    chosen = {"data.path": data, "run.dir": run, **OPTIONS}
    Trainer(assemble(load_config([f"--{name}={value}" for name, value in chosen.items()]))).fit()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {kind: [float(f"{row['loss']:.7g}") for row in rows if row["kind"] == kind] for kind in ("train", "eval")}


def test_losses_are_what_they_have_always_been(tiny_dataset, tmp_path):
    golden, found = json.loads(GOLDEN.read_text()), losses(tiny_dataset, tmp_path / "run")
    assert len(golden["train"]) == 24
    for kind, values in golden.items():
        assert found[kind] == pytest.approx(values, rel=TOLERANCE), kind


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]
    from tiny import make_tiny_dataset

    with tempfile.TemporaryDirectory() as folder:
        found = losses(make_tiny_dataset(Path(folder) / "data"), Path(folder) / "run")
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
