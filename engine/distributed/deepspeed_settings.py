"""DeepSpeed's settings for a run: made from its options, with the user's own JSON file merged over them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from engine.config.batching import Batching
from engine.config.options import Config, ConfigError

# What the plan and the recipe decide; another value in a JSON file would make the run differ from its config.yaml.
_OURS = {
    "train_batch_size": "data.global_batch_size",
    "train_micro_batch_size_per_gpu": "data.batch_size",
    "gradient_accumulation_steps": "data.global_batch_size",
    "managed_gradient_accumulation": "data.global_batch_size",
    "gradient_clipping": "optimizer.clip_norm",
    "optimizer": "optimizer.name",
    "scheduler": "schedule.kind",
    "fp16": "precision",
    "bf16": "precision",
    "torch_autocast": "precision",
}

# Optimizers that move every weight by its own gradients alone, so that it does not matter how ZeRO cuts layers apart.
_BY_WEIGHT = ("sgd", "rmsprop", "adam", "adamw", "nadamw", "lion")


def deepspeed_config(config: Config, batching: Batching, dtype: torch.dtype) -> dict[str, Any]:
    """DeepSpeed's settings for a run, with the user's own JSON file (`strategy.deepspeed_config`) merged over them.

    Raises ConfigError for a file that cannot be read, or that sets what the run's own options decide, and for a stage of ZeRO
    that cuts apart what must be whole.
    """
    strategy = config.strategy
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": batching.batch_size,
        "gradient_accumulation_steps": batching.micro_batches,
        "gradient_clipping": config.optimizer.clip_norm or 0.0,
        "zero_optimization": {"stage": strategy.zero_stage},
        "zero_allow_untested_optimizer": True,
        "communication_data_type": "bf16" if strategy.compress_gradients else "fp32",
        "steps_per_print": None,
    }
    if dtype == torch.bfloat16:
        # Weights and batch statistics stay in fp32; casting the whole network, as "bf16" does, would round both.
        settings["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    if strategy.deepspeed_config:
        _merge(settings, _read(strategy.deepspeed_config))
    if settings["zero_optimization"].get("stage", 0) not in (0, 1, 2):
        raise ConfigError(
            "ZeRO 3 is not supported: it cuts the weights apart, which averaging, evaluation and checkpoints need whole, "
            "and the largest Inception network has only 0.2 GB of them; use --strategy.zero_stage 2"
        )
    if settings["zero_optimization"].get("stage", 0) > 0 and config.optimizer.name not in _BY_WEIGHT:
        raise ConfigError(
            f"--optimizer.name {config.optimizer.name} may need whole layers, which ZeRO cuts apart (only "
            f"{', '.join(_BY_WEIGHT)} are known not to): use --strategy.zero_stage 0 or --strategy.name ddp"
        )
    return settings


def _read(file: str) -> dict[str, Any]:
    try:
        tree = json.loads(Path(file).read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except OSError as error:
        raise ConfigError(f"--strategy.deepspeed_config {file} cannot be read: {error.strerror}") from None
    except KeyError as error:
        raise ConfigError(f"--strategy.deepspeed_config {file} has key {error} twice: leave one out") from None
    except ValueError as error:
        raise ConfigError(f"--strategy.deepspeed_config {file} is not JSON: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"--strategy.deepspeed_config {file} is not a JSON object")
    for key, option in _OURS.items():
        if key in tree:
            raise ConfigError(
                f"--strategy.deepspeed_config {file} sets {key}, which --{option} decides: remove it there"
            )
    return tree


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises KeyError for a key that it has twice, of which Python takes the last without a word."""
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise KeyError(name)
    return dict(pairs)


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value
