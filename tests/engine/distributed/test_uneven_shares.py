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
from engine.config.options import AugmentationConfig, Config, ConfigError, DataConfig
from engine.distributed.communicator import Communicator
from engine.faults.errors import TrainingFailed
from engine.monitoring.hooks import Hook
from engine.training.assembly import assemble
from engine.training.batch_that_fits import settle_batching
from engine.training.introduction import a_step, what_comes_out
from engine.training.trainer import Trainer
from launch.environment import Environment
from pipelines import TrainPlan
from runs import newest_state, rows

ROOT = Path(__file__).resolve().parents[3]
PATH = f"{ROOT}:{ROOT / 'tests' / 'support'}"
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
BEGUN = "ddp, in parts"  # the case that is trained once more, from the first step on three ranks


@pytest.fixture(scope="module")
def trained(tiny_dataset, tmp_path_factory) -> Path:
    """The folder of every case's two runs: quiet, on 2 ranks, and disturbed, on 2, 3 and 2, and of one that began on 3; what
    they said is in `said`."""
    folder = tmp_path_factory.mktemp("uneven")
    shared = {"data.path": tiny_dataset, "network.name": "debug", "precision": "fp32", "data.global_batch_size": BATCH}
    shared |= {"ema.decay": 0.9, "monitor.every_steps": 1, **EXACT}
    runs = []
    for name, case in CASES.items():
        begun = [("begun uneven", [3, 2])] if name == BEGUN else []
        for kind, ranks in (("quiet", [2]), ("disturbed", [2, 3, 2]), *begun):
            options = {**shared, **case, "run.dir": folder / name / kind}
            runs.append({"arguments": [f"--{key}={value}" for key, value in options.items()], "ranks": ranks})
    with (folder / "said").open("w") as said:
        subprocess.run(
            [sys.executable, Path(__file__).with_name("elastic_driver.py"), json.dumps({"runs": runs, "stops": [1, 3]})],
            stdout=said, stderr=subprocess.STDOUT, check=True, cwd=folder,
            env={**os.environ, "PYTHONPATH": PATH, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    return folder


@pytest.mark.parametrize(("case", "kind"), [*((case, "disturbed") for case in CASES), (BEGUN, "begun uneven")])
def test_losses_are_those_of_equal_shares(trained, case, kind):
    quiet, disturbed = trained / case / "quiet", trained / case / kind
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


@pytest.mark.parametrize(
    ("case", "kind", "phases"), [*((case, "disturbed", (2, 3, 2)) for case in CASES), (BEGUN, "begun uneven", (3, 2))]
)
def test_every_sample_comes_once_in_shares_that_differ_by_one(trained, case, kind, phases):
    found: dict[int, list[list[int]]] = {}
    for phase, count in enumerate(phases):
        ranks = sorted((trained / case / kind).glob(f"samples-{phase}-*.json"))
        assert len(ranks) == count
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
    uneven = {1, 2} if phases == (3, 2) else {3, 4}  # a stop is heard a step after it is asked for
    assert [[len(share) for share in found[step]] == sizes for step in found] == [step in uneven for step in found]


def test_uneven_shares_are_said(trained):
    said = (trained / "said").read_text()
    assert said.count("16 images, on 3 ranks 3 micro-batches of 1 to 2 each, weighted by what they hold;") == 3
    assert said.count("16 images, on 3 ranks 1 micro-batch of 4 to 6 each, weighted by what they hold;") == 1
    # Once, of the run that began so.
    equal = (
        "cannot be shared equally among 3 processes: set --data.global_batch_size to 15 or 18, or use another number of"
    )
    assert (
        said.count("shares are uneven: ")
        == said.count(f"shares are uneven: the global batch of 16 images {equal}")
        == 1
    )


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


def settle(ranks: int, *, begun: bool = False, mixup: float = 0.0, **data: object):
    config = Config(data=DataConfig(**data), augmentation=AugmentationConfig(mixup=mixup))  # type: ignore[arg-type]
    communicator = Communicator(Environment(rank=0, world_size=ranks, local_world_size=ranks), torch.device("cpu"))
    return settle_batching(config, torch.nn.Linear(1, 1), communicator, begun)  # type: ignore[arg-type]


ODD = (
    "mixup and cutmix mix pairs, and the global batch of {} images is an odd number: set --data.global_batch_size to {}"
)


@pytest.mark.parametrize("most", [32, "auto"])  # memory is not tried first: there is no network to try
@pytest.mark.parametrize(("total", "ranks", "mixup", "words"), [
    (31, 1, 0.2, ODD.format(31, "30 or 32")),
    (1017, 8, 0.2, ODD.format(1017, "1008 or 1024")),
    (9, 4, 0.2, ODD.format(9, "8 or 16")),
    (3, 4, 0, "of the global batch of 3 images each of 4 processes needs 1 at least: set --data.global_batch_size to 4 or more, "
     "or use fewer processes"),
    (7, 4, 0.2, "of the global batch of 7 images each of 4 processes needs 2, which mixup and cutmix mix, at least: set "
     "--data.global_batch_size to 8 or more, or use fewer processes"),
    (1, 1, 0.2, "of the global batch of 1 image each of 1 process needs 2, which mixup and cutmix mix, at least: set "
     "--data.global_batch_size to 2 or more"),
])  # fmt: skip
def test_what_no_size_of_micro_batches_could_share_is_said_with_the_global_batch_that_would_do(
    total, ranks, mixup, words, most
):
    with pytest.raises(ConfigError) as refused:
        settle(ranks, mixup=mixup, global_batch_size=total, batch_size=most)
    assert str(refused.value) == words
    with pytest.raises(ConfigError) as refused:
        settle(4, begun=True, global_batch_size=3, batch_size=most)  # which keeps its global batch
    assert (
        str(refused.value)
        == "of the global batch of 3 images each of 4 processes needs 1 at least: use fewer processes"
    )


@pytest.mark.parametrize(("total", "ranks", "most", "mixup", "words"), [
    (5, 2, 1, 0, "some have 3 images of the global batch of 5, some 2, .* set --data.batch_size to 2 or more"),
    (8, 2, 1, 0.2, "mixup and cutmix mix pairs: set --data.batch_size to an even number, not 1$"),
    (None, 2, 33, 0.2, "mixup and cutmix mix pairs: set --data.batch_size to an even number, not 33$"),
])  # fmt: skip
def test_micro_batches_that_cannot_be_are_one_line_about_their_size(total, ranks, most, mixup, words):
    with pytest.raises(ConfigError, match=words):
        settle(ranks, mixup=mixup, global_batch_size=total, batch_size=most)


@pytest.mark.parametrize(("total", "ranks", "mixup", "step", "why"), [
    (61, 1, 0, "on 1 rank 2 micro-batches of 30 to 31 each",
     "micro-batches differ: the global batch of 61 images leaves each of 1 process 61, which no number of images from 2 to 32 "
     "(--data.batch_size) divides: set --data.global_batch_size to 60 or 62"),
    (1016, 8, 0, "on 8 ranks 4 micro-batches of 31 to 32 each",
     "micro-batches differ: the global batch of 1016 images leaves each of 8 processes 127, which no number of images from 2 "
     "to 32"),
    (1018, 8, 0.2, "on 8 ranks 4 micro-batches of 30 to 32 each", "shares are uneven: the global batch of 1018 images cannot be "
     "shared equally in pairs among 8 processes: set --data.global_batch_size to 1008 or 1024, or use another number of"),
    (34, 1, 0.2, "on 1 rank 2 micro-batches of 16 to 18 each",
     "micro-batches differ: the global batch of 34 images leaves each of 1 process 34, which no even number of images from 3 "
     "to 32 (--data.batch_size) divides"),
    (16, 3, 0, "on 3 ranks 1 micro-batch of 5 to 6 each", "shares are uneven: "),
    (30, 1, 0.2, "on each of 1 rank 1 micro-batch of 30;", ""),
])  # fmt: skip
def test_what_is_uneven_is_named(total, ranks, mixup, step, why):
    batching, config = settle(ranks, mixup=mixup, global_batch_size=total, batch_size=32), Config()
    assert f"a step: {total} images, {step}" in a_step(config, batching, ranks, 1)
    assert next(what_comes_out(config, batching), "").startswith(why)


def test_pairs_share_equally_whatever_the_number_asked_for():
    """30 images in 15s would be odd; in 10s they are not."""
    batching = settle(1, mixup=0.2, global_batch_size=30, batch_size=15)
    assert (batching.micro_batches, batching.batch_size, batching.uneven_ranks) == (3, 10, 0)


def test_any_number_of_ranks_will_do_and_a_new_run_hears_what_would_be_equal():
    new = settle(3, batch_size=8, global_batch_size=16)
    assert new.advice.startswith(
        "the global batch of 16 images cannot be shared equally among 3 processes: set --data.global_batch"
    )
    goes_on = settle(3, begun=True, batch_size=8, global_batch_size=16)
    assert goes_on == dataclasses.replace(new, advice="")
    assert goes_on.uneven_ranks == 3
    # 61 images a rank divide into no micro-batches of up to 32.
    assert "--data.batch_size to" in settle(3, batch_size=32, global_batch_size=183).advice
    found = settle(3, begun=True, batch_size=32, global_batch_size=183)
    assert (found.micro_batches, found.sizes, found.uneven_ranks) == (2, (30, 31), 3)
    # What divides is shared as ever, to the bit.
    assert settle(3, begun=True, batch_size=8, global_batch_size=24) == share_batch(
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


@pytest.mark.usefixtures("signals")
def test_memory_that_does_not_hold_uneven_parts_is_advised_smaller_ones(tiny_run):
    """9 images in parts of 4 and 5: in three of 3 they may fit."""

    class Full(Hook):
        def on_step(self, run):
            raise torch.OutOfMemoryError("tried to allocate 20.00 GiB")

    arguments = tiny_run("run", **{"data.batch_size": 8, "data.global_batch_size": 9})[1:]
    with pytest.raises(TrainingFailed, match=r"^5 images at once do not fit .*; 3 would: --data.batch_size 3, or auto"):
        Trainer(assemble(load_config(arguments), hooks=[Full()])).fit()
