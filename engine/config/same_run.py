"""What makes two runs the same: the options that decide what is learned."""

from engine.config.options import Config, leaves

# What may differ between the parts of one run: how fast, where and with whose eyes it runs, not what it computes.
_FREE = (
    "run.dir", "run.resume", "run.branch", "run.target_top1", "run.on_nan", "run.rollbacks", "run.deterministic", "hooks",
    "schedule.stop_after", "device", "data.path", "data.train", "data.val", "data.classes", "data.backend", "data.batch_size",
    "data.workers", "data.prefetch", "data.on_error", "network.weights", "distillation.teacher", "network.fuse",
    "network.fused_norm", "strategy.name", "strategy.zero_stage", "strategy.deepspeed_config", "strategy.timeout",
)  # fmt: skip
_HOW_TRAINED = ("--network.freeze ", "--network.freeze_batch_norm ", "--network.drop_path ")  # any weights fit
_FREE_BRANCHES = (
    "data.native.", "data.dali.", "data.ffcv.", "evaluation.", "compile.", "checkpoint.", "monitor.", "profile.",
)  # fmt: skip


def differences(config: Config, saved: Config) -> list[str]:
    """The options by which `config` would be another run than `saved`, in words: "--optimizer.lr 0.1, not 0.25"."""
    before, now = _in_effect(saved), _in_effect(config)
    by_evaluation = config.schedule.kind == "plateau"
    return [
        f"--{key} {before[key]}, not {value}"
        for key, value in now.items()
        if not _is_free(key, by_evaluation) and value != before[key]
    ]


def _is_free(key: str, by_evaluation: bool) -> bool:
    """Whether an option may differ; how is evaluated may not where the learning rate goes by it."""
    if by_evaluation and key.startswith("evaluation."):
        return key == "evaluation.batch_size"
    return key in _FREE or key.startswith(_FREE_BRANCHES)


def _in_effect(config: Config) -> dict[str, object]:
    """The options by name; of one that stands for the optimizer's own default, or that it does not read, what it does."""
    return dict(leaves(config)) | {f"optimizer.{name}": value for name, value in config.optimizer.in_effect().items()}


def evaluation_differences(config: Config, saved: Config) -> list[str]:
    """The options by which `config` would evaluate otherwise than `saved`, in the same words."""
    before = dict(leaves(saved.evaluation))
    return [
        f"--evaluation.{key} {before[key]}, not {value}"
        for key, value in leaves(config.evaluation)
        if key in ("resolution", "flip", "interpolation", "crop_fraction", "resize") and value != before[key]
    ]


def network_differences(config: Config, saved: Config) -> list[str]:
    """The options by which the weights of `saved` do not fit the network of `config`, in the same words."""
    found = [words for words in differences(config, saved) if words.startswith("--network.")]
    return [words for words in found if not words.startswith(_HOW_TRAINED)]


def shared_options(config: Config) -> str:
    """The options that all ranks of a run must have alike, a line each; where the data lies may differ."""
    own = ("data.path", "data.train", "data.val", "run.dir", "network.weights", "distillation.teacher", "compile.cache")
    return "\n".join(f"--{key} {value}" for key, value in leaves(config) if key not in own)
