"""single, ddp and deepspeed compute the same, and each goes on from the others' checkpoints.

Two torchrun jobs, of one rank and of two, train every case in turn and exchange checkpoints (strategies_driver.py).
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.config.batching import Batching
from engine.config.options import Config, ConfigError, OptimizerConfig, StrategyConfig
from engine.distributed.deepspeed import deepspeed_config
from inception import create_model, save_weights
from pipelines import TrainPlan, open_dataset, sample_path

DRIVER = "tests/engine/distributed/strategies_driver.py"
STEPS, BATCH = 10, 32  # as in the driver
BATCHING = Batching(global_batch=64, micro_batches=2, batch_size=16)

VARIANTS = [
    {"strategy": strategy, "stage": 2, "variant": variant}
    for variant in ("accumulated", "compressed", "bf16", "taught", "adamw")
    for strategy in ("ddp", "deepspeed")
]
SAMPLE = {
    1: [{"strategy": "single"}, {"strategy": "deepspeed", "stage": 2}],
    2: [
        {"strategy": "ddp"},
        {"strategy": "ddp", "compiled": True},
        {"strategy": "deepspeed", "stage": 0},
        {"strategy": "deepspeed", "stage": 2},
        *VARIANTS,
    ],
}
WHOLE = {
    ranks: [
        {"strategy": strategy, "compiled": compiled, **({"stage": stage} if strategy == "deepspeed" else {})}
        for strategy, stage in (("single", 0), ("ddp", 0), ("deepspeed", 0), ("deepspeed", 1), ("deepspeed", 2))
        for compiled in (False, True)
        if ranks == 1 or strategy != "single"
    ]
    for ranks in (1, 2)
}
WHOLE[2] += VARIANTS


def test_a_sample_of_the_matrix(start_torchrun, tmp_path):
    check_matrix(start_torchrun, tmp_path, SAMPLE, {}, 1e-6)


@pytest.mark.soak
def test_the_whole_matrix_compiled_by_inductor(start_torchrun, tmp_path):
    check_matrix(start_torchrun, tmp_path, WHOLE, {"DRIVER_INDUCTOR": "1"}, 1e-5)


def check_matrix(start_torchrun, folder: Path, cases: dict[int, list[dict]], env: dict[str, str], rounding: float):
    """Every case on its number of ranks, to losses that differ so little; then each loads what all of them saved."""
    env = env | {"PYTHONPATH": str(Path(__file__).parents[3])}
    teacher = create_model("debug", 10, width=0.25)
    classes = open_dataset(sample_path(), "val", progress=False).classes
    save_weights(folder / "teacher.safetensors", teacher.state_dict(), teacher.metadata() | {"classes": list(classes)})
    jobs = [
        start_torchrun([DRIVER, folder, json.dumps(cases[ranks]), 3 - ranks], processes=ranks, env=env)
        for ranks in cases
    ]
    for job in jobs:
        done = job.wait()
        assert done.returncode == 0, done.stderr[-4000:]
    results = {path.name.removesuffix(".json"): json.loads(path.read_text()) for path in folder.glob("*.json")}
    trained = {name: result for name, result in results.items() if "." not in name}
    loaded = {name.split(".")[0]: result for name, result in results.items() if name.endswith(".loaded")}
    assert len(trained) == len(loaded) == sum("variant" not in case for of_ranks in cases.values() for case in of_ranks)

    for (left, first), (right, second) in itertools.combinations(trained.items(), 2):
        np.testing.assert_allclose(first["losses"], second["losses"], rtol=rounding, err_msg=f"{left}, {right}")
    assert all(len(result["losses"]) == STEPS for result in trained.values())

    following = TrainPlan(4000, BATCH, seed=0).indices(epoch=0, batch=STEPS).tolist()
    for (loader, cells), saver in itertools.product(loaded.items(), trained):
        cell, where = cells[saver], f"saved by {saver}, loaded by {loader}"
        assert cell["differences"] == [], where
        assert cell["indices"] == following, where
        np.testing.assert_allclose(cell["later"]["norm"], trained[saver]["later"]["norm"], rtol=1e-6, err_msg=where)
        np.testing.assert_allclose(cell["later"]["ema"], trained[saver]["later"]["ema"], rtol=1e-5, err_msg=where)
        if saver == loader:
            assert cell["later"]["digest"] == trained[saver]["later"]["digest"], where
    for name, result in trained.items():
        # ZeRO also gathers the weights that the other ranks have moved.
        phases = {"deepspeed0-2": {"backward"}, "deepspeed2-2": {"backward", "optimizer"}}.get(name, set())
        assert {phase for phase, seconds in result["exchange"].items() if seconds > 0} >= phases, name
        assert name.endswith("-2") or not result["exchange"], name
    # The same arithmetic in the same order.
    assert trained["deepspeed0-2"]["later"] == trained["ddp-2"]["later"]

    exact = trained["ddp-2"]["losses"]
    for variant, tolerance in (
        ("accumulated", 1e-5),
        ("compressed", 1e-3),
        ("bf16", 1e-2),
        ("taught", 1e-5),
        ("adamw", 1e-5),
    ):
        pair = [results[name]["losses"] for name in (f"ddp2-{variant}-2.variant", f"deepspeed2-{variant}-2.variant")]
        np.testing.assert_allclose(*pair, rtol=tolerance, err_msg=variant)
        for losses in pair:
            if variant not in ("taught", "adamw"):  # which minimise another sum, or otherwise
                np.testing.assert_allclose(losses, exact, rtol=0.05, err_msg=variant)
            assert losses != exact, variant


def test_deepspeeds_settings_come_from_the_runs_options():
    config = Config(optimizer=OptimizerConfig(clip_norm=2.0), strategy=StrategyConfig(zero_stage=2))
    settings = deepspeed_config(config, BATCHING, dtype=torch.bfloat16)
    assert settings["train_micro_batch_size_per_gpu"] == 16
    assert settings["gradient_accumulation_steps"] == 2
    assert settings["gradient_clipping"] == 2.0
    assert settings["zero_optimization"] == {"stage": 2}
    assert settings["torch_autocast"]["dtype"] == "bfloat16"
    assert "torch_autocast" not in deepspeed_config(config, BATCHING, dtype=torch.float32)
    config.strategy.compress_gradients = True
    assert deepspeed_config(config, BATCHING, dtype=torch.float32)["communication_data_type"] == "bf16"


def test_a_users_own_settings_are_merged_over_them(tmp_path):
    file = tmp_path / "mine.json"
    config = Config(strategy=StrategyConfig(zero_stage=2, deepspeed_config=str(file)))
    file.write_text('{"zero_optimization": {"overlap_comm": true}, "wall_clock_breakdown": true}')
    settings = deepspeed_config(config, BATCHING, dtype=torch.float32)
    assert settings["zero_optimization"] == {"stage": 2, "overlap_comm": True}
    assert settings["wall_clock_breakdown"] is True


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "mine.json cannot be read: No such file or directory"),
        ("{", "mine.json is not JSON"),
        ("[1]", "mine.json is not a JSON object"),
        ('{"train_batch_size": 7}', "sets train_batch_size, which --data.global_batch_size decides"),
        ('{"bf16": {"enabled": true}}', "sets bf16, which --precision decides"),
        ('{"zero_optimization": {"stage": 3}}', "ZeRO 3 is not supported: .* use --strategy.zero_stage 2"),
    ],
)
def test_settings_that_cannot_be_are_refused(text, message, tmp_path):
    file = tmp_path / "mine.json"
    if text is not None:
        file.write_text(text)
    config = Config(strategy=StrategyConfig(deepspeed_config=str(file)))
    with pytest.raises(ConfigError, match=message):
        deepspeed_config(config, BATCHING, dtype=torch.float32)


@pytest.mark.parametrize("name", ["lamb", "muon", "adafactor"])
def test_zero_refuses_optimizers_that_may_need_whole_layers(name):
    def settings(stage: int, name: str) -> dict:
        config = Config(optimizer=OptimizerConfig(name=name), strategy=StrategyConfig(zero_stage=stage))
        return deepspeed_config(config, BATCHING, dtype=torch.float32)

    for stage in (1, 2):
        with pytest.raises(ConfigError, match=rf"--optimizer.name {name} may need whole layers, which ZeRO cuts apart"):
            settings(stage, name)
        assert settings(stage, "adamw")["zero_optimization"]["stage"] == stage
    assert settings(0, name)["zero_optimization"]["stage"] == 0


def test_zero_3_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match="averaging, evaluation and checkpoints need whole"):
        deepspeed_config(Config(strategy=StrategyConfig(zero_stage=3)), BATCHING, dtype=torch.float32)
