"""A run goes on with any number of ranks: shares that differ by an image, or by a pair where images are mixed, give the losses
of equal ones, every sample comes once, and the run that is back on its own number of ranks ends where it would have."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.config.batching import share_batch, share_unevenly
from engine.config.command_line import load_config
from engine.config.options import Config, ConfigError, DataConfig
from engine.distributed.communicator import Communicator
from engine.monitoring.hooks import Hook
from engine.training.assembly import assemble
from engine.training.batch_that_fits import settle_batching
from engine.training.trainer import Trainer
from launch.environment import Environment
from pipelines import TrainPlan
from runs import newest_state, rows

pytestmark = pytest.mark.xdist_group("uneven shares")  # one worker trains what they share
STEPS, BATCH = 12, 16
EXACT = {"optimizer.lr": 0.002, "schedule.epochs": 2}  # a rate at which rounding is not amplified from step to step
PARTS = {"network.batch_norm": "false", "data.batch_size": 2, "optimizer.clip_norm": 0.5}
CASES = {
    "ddp, in parts": {"strategy.name": "ddp", **PARTS},
    "ddp, normalised over all, mixed, auto": {
        "strategy.name": "ddp", "strategy.sync_batchnorm": "true", "data.batch_size": "auto", "augmentation.mixup": 0.2,
    },
    "deepspeed, in parts": {"strategy.name": "deepspeed", "strategy.zero_stage": 2, **PARTS},
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tiny_dataset, tmp_path_factory) -> Path:
    """The folder of every case's two runs: quiet, on 2 ranks, and disturbed, on 2, 3 and 2; what they said is in `said`."""
    folder = tmp_path_factory.mktemp("uneven")
    shared = {"data.path": tiny_dataset, "network.name": "debug", "precision": "fp32", "data.global_batch_size": BATCH}
    shared |= {"ema.decay": 0.9, "monitor.every_steps": 1, **EXACT}
    runs = []
    for name, case in CASES.items():
        for kind, ranks in (("quiet", [2]), ("disturbed", [2, 3, 2])):
            options = {**shared, **case, "run.dir": folder / name / kind}
            runs.append({"arguments": [f"--{key}={value}" for key, value in options.items()], "ranks": ranks})
    with (folder / "said").open("w") as said:
        subprocess.run(
            [sys.executable, Path(__file__).with_name("elastic_driver.py"), json.dumps({"runs": runs, "stops": [1, 3]})],
            stdout=said, stderr=subprocess.STDOUT, check=True, cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    return folder


@pytest.mark.parametrize("case", CASES)
def test_losses_are_those_of_equal_shares(trained, case):
    quiet, disturbed = trained / case / "quiet", trained / case / "disturbed"
    bounds = {"loss": 5e-6, "top1": 1e-6, "gradient_norm": 1e-3}
    for kind, keys in (("train", ("loss", "gradient_norm", "top1")), ("eval", ("loss", "top1"))):
        left, right = rows(quiet, kind), rows(disturbed, kind)
        assert [row["step"] for row in left] == [row["step"] for row in right]
        assert [row["samples"] for row in left] == [row["samples"] for row in right]
        for one, other in zip(left, right):
            for key in keys:
                assert other[key] == pytest.approx(one[key], rel=bounds[key]), (case, kind, one["step"], key)
    assert len(rows(disturbed)) == STEPS
    assert all(row["count"] == 30 for row in rows(disturbed, "eval"))
    one, other = (newest_state(run)["network"] for run in (quiet, disturbed))
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("case", CASES)
def test_every_sample_comes_once_in_shares_that_differ_by_one(trained, case):
    found: dict[int, list[list[int]]] = {}
    for phase in range(3):
        ranks = sorted((trained / case / "disturbed").glob(f"samples-{phase}-*.json"))
        assert len(ranks) == (2, 3, 2)[phase]
        for path in ranks:
            for step, parts in json.loads(path.read_text()).items():
                found.setdefault(int(step), []).append([sample for part in parts for sample in part])
                assert max(map(len, parts)) - min(map(len, parts)) <= (2 if "mixed" in case else 1)
    plan = TrainPlan(96, BATCH)
    assert sorted(found) == list(range(1, STEPS + 1))
    for step, shares in found.items():
        epoch, batch = divmod(step - 1, plan.batches)
        assert [sample for share in shares for sample in share] == plan.indices(epoch, batch).tolist()
    sizes = [4, 6, 6] if "mixed" in case else [5, 5, 6]
    assert [[len(share) for share in found[step]] for step in (2, 3, 4, 5)] == [[8] * 2, sizes, sizes, [8] * 2]


def test_uneven_shares_are_said(trained):
    said = (trained / "said").read_text()
    assert said.count("16 images, on 3 ranks 3 micro-batches of 1 to 2 each, weighted by what they hold;") == 2
    assert said.count("16 images, on 3 ranks 1 micro-batch of 4 to 6 each, weighted by what they hold;") == 1


@pytest.mark.parametrize(
    ("total", "ranks", "most", "unit"),
    [(16, 3, 8, 1), (16, 3, 2, 1), (9, 2, 2, 1), (1000, 7, 32, 1), (61, 1, 32, 1), (30, 4, 4, 2)],
)
def test_weights_of_all_ranks_add_up(total, ranks, most, unit):
    options, batch = DataConfig(batch_size=most, global_batch_size=total), 0.0
    parts = [share_unevenly(options, ranks, rank, unit) for rank in range(ranks)]
    assert len({(part.micro_batches, part.batch_size, part.least, len(part.compiled_sizes)) for part in parts}) == 1
    for rank, part in enumerate(parts):
        share = unit * ((rank + 1) * (total // unit) // ranks - rank * (total // unit) // ranks)
        assert part.least <= part.sizes[0] <= part.sizes[-1] <= part.batch_size <= most
        assert part.micro_batches * part.sizes[0] <= share <= part.micro_batches * part.sizes[-1]
        batch += part.weight(share) / ranks
    assert batch == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("total", "ranks", "most", "message"),
    [
        (3, 4, 1, "global batch of 3 images in parts of at most 1 cannot be shared among 4 processes: use fewer"),
        (5, 2, 1, r"some have 3 images of the global batch of 5, some 2, .* set --data\.batch_size to 2 or more"),
    ],
)
def test_what_cannot_be_shared_is_one_line(total, ranks, most, message):
    with pytest.raises(ConfigError, match=message):
        share_unevenly(DataConfig(batch_size=most, global_batch_size=total), ranks, 0)


def test_any_number_of_ranks_will_do_and_a_new_run_hears_what_would_be_equal():
    def settle(goes_on: bool, **data: object):
        config = Config(data=DataConfig(**data))  # type: ignore[arg-type]
        environment = Environment(rank=0, world_size=3, local_world_size=3)
        communicator = Communicator(environment, torch.device("cpu"))
        return settle_batching(config, torch.nn.Linear(1, 1), communicator, goes_on)  # type: ignore[arg-type]

    new = settle(False, batch_size=8, global_batch_size=16)
    assert new.advice.startswith(
        "the global batch of 16 images cannot be shared equally among 3 processes: set --data.global_batch"
    )
    goes_on = settle(True, batch_size=8, global_batch_size=16)
    assert goes_on == dataclasses.replace(new, advice="")
    assert goes_on.uneven_ranks == 3
    # 61 images a rank divide into no micro-batches of up to 32.
    assert "--data.batch_size to" in settle(False, batch_size=32, global_batch_size=183).advice
    found = settle(True, batch_size=32, global_batch_size=183)
    with pytest.raises(ConfigError, match="2 images in parts of at most 8 cannot be shared among 3"):
        settle(False, batch_size=8, global_batch_size=2)
    assert (found.micro_batches, found.sizes, found.uneven_ranks) == (2, (30, 31), 3)
    # What divides is shared as ever, to the bit.
    assert settle(True, batch_size=8, global_batch_size=24) == share_batch(
        DataConfig(batch_size=8, global_batch_size=24), 3
    )


@pytest.mark.usefixtures("signals")
def test_a_compiled_run_goes_on_with_parts_that_differ_and_compiles_nothing_again(tiny_run, tmp_path, monkeypatch):
    """One rank whose share of 9 images is computed in parts of 4 and 5; without code generation."""
    compile_fully = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda module, mode=None, **how: compile_fully(module, backend="aot_eager", **how)
    )

    class StopAtTheEnd(Hook):
        def on_evaluation(self, run, row, findings):
            if row["step"] == 10:
                run.stop.requested = True

    def train(name: str, most: int, hooks: list[Hook], compiled: bool = False) -> str:
        options = {"data.batch_size": most, "data.global_batch_size": 9, "network.batch_norm": "false"}
        options |= {"optimizer.lr": 0.002, "compile.enabled": str(compiled).lower()}
        return Trainer(assemble(load_config(tiny_run(name, **options)[1:]), hooks=hooks)).fit().reason

    assert train("quiet", 9, []) == "completed"
    assert train("run", 9, [StopAtTheEnd()]) == "preempted"
    assert train("run", 8, [], compiled=True) == "completed"
    assert [row["loss"] for row in rows(tmp_path / "run")] == pytest.approx(
        [row["loss"] for row in rows(tmp_path / "quiet")], rel=5e-6
    )
    events = [row["event"] for row in rows(tmp_path / "run", "event")]
    assert events.count("compiled") == 1
    assert "recompiled" not in events
