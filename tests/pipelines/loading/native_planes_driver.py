"""What test_native_planes.py judges, computed in a process of its own, since Triton decides when it is imported whether its
kernels are interpreted: python native_planes_driver.py cpu|cuda DATASET prints one JSON object.

On a CPU the environment must have TRITON_INTERPRET=1. DATASET is a folder of class folders, of which one image is damaged here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))

from interpreting import stay_patched
from pipelines import EvalPlan, TrainPlan, build_loader, open_dataset

DEVICE, DATA = sys.argv[1], Path(sys.argv[2])
if DEVICE == "cpu":
    stay_patched()
ON_DEVICE = {"planes_on_device": True}


def loader_of(plan, device=DEVICE, settings=ON_DEVICE, **options):
    how = {"batch_size": 4, "resolution": 16, "workers": 2, "settings": settings} | options
    return build_loader(dataset, plan, "auto", device, **how)


def differences(ours, wanted) -> dict[str, float]:
    """How many batches there are, whether they are of the same samples, and by how many levels pixels differ at most."""
    pairs = list(zip(ours, wanted, strict=True))
    return {
        "batches": len(pairs),
        "same": all(
            a.indices.equal(b.indices) and a.labels.cpu().equal(b.labels) and a.images.stride() == b.images.stride()
            for a, b in pairs
        ),
        "levels": max(int((a.images.cpu().int() - b.images.int()).abs().max()) for a, b in pairs),
        "device": str(pairs[0][0].images.device.type),
    }


dataset = open_dataset(DATA, "train", progress=False)
plan = TrainPlan(len(dataset), 8, seed=3, drop_last=False)
found: dict = {}
with loader_of(plan) as loader, loader_of(plan, "cpu", {}) as wanted:
    found["reason"] = loader.reason
    found["an epoch"] = differences(loader, wanted)
    # Another size, from the next batch on.
    first, second = iter(loader), iter(wanted)
    next(first), next(second)
    loader.resolution = wanted.resolution = 11
    found["another size"] = differences(first, second)
with loader_of(plan, rank=1, world_size=2) as loader, loader_of(plan, "cpu", {}, rank=1, world_size=2) as wanted:
    begun = iter(loader)
    next(begun)
    state = loader.state_dict()
    loader.load_state_dict(state)
    wanted.load_state_dict(state)
    found["a resumed rank"] = differences(loader, wanted)
with loader_of(EvalPlan(len(dataset), 8)) as loader:
    found["evaluation"] = loader.reason

damaged = sorted(DATA.glob("train/*/*.y4m"))[3]
damaged.write_bytes(damaged.read_bytes()[:-100])
with loader_of(plan, on_error="skip") as loader, loader_of(plan, "cpu", {}, on_error="skip") as wanted:
    found["a damaged image"] = differences(loader, wanted)
    found["substitutions"] = [loader.substitutions, wanted.substitutions]
print(json.dumps(found))
