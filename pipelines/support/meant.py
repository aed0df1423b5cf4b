"""The name that was meant by one that does not exist: by its meaning, as other training scripts call the same, else by its
spelling.

The other names are those of timm's train.py and validate.py, of torchvision's references/classification/train.py, of
Hugging Face's Trainer and Lightning's CLI, written with underscores; of several of ours that mean the same, a command has
the first that it knows.
"""

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches

OPTIONS = {
    "amp native_amp apex_amp amp_dtype model_dtype mixed_precision fp16 bf16 half dtype tf32": "precision",
    "arch architecture backbone net model model_name network": "network.name weights",
    "pretrained initial_checkpoint init_checkpoint finetune ckpt_path pretrained_weights model_name_or_path":
        "network.weights weights",
    "checkpoint model_path checkpoint_path ckpt": "weights network.weights",
    "classes class_map class_names labels num_classes nb_classes": "data.classes weights.classes",
    "data dataset data_dir data_path data_root root imagenet train_dir": "data.path",
    "train_split train_data traindir": "data.train train",
    "val_split val_dir val_data validation valdir test_data": "data.val val",
    "b batch bs batch_size batchsize micro_batch per_device_train_batch_size batch_size_per_gpu train_batch_size":
        "data.batch_size batch_size",
    "global_batch total_batch_size effective_batch_size grad_accum accum grad_accum_steps gradient_accumulation_steps "
    "accumulate_grad_batches": "data.global_batch_size",
    "vb validation_batch_size eval_batch_size per_device_eval_batch_size": "evaluation.batch_size data.batch_size",
    "j workers num_workers nw threads num_threads dataloader_num_workers jobs": "data.workers workers",
    "img_size image_size imgsz input_size train_crop_size crop_size size resolution":
        "data.resolution resolution longest_side",
    "val_crop_size eval_size test_size": "evaluation.resolution data.resolution resolution",
    "val_resize_size resize_size": "evaluation.resize",
    "crop_pct crop_percent center_crop": "evaluation.crop_fraction crop_fraction",
    "tta": "evaluation.flip crops",
    "train_interpolation": "data.interpolation",
    "scale": "data.crop_scale",
    "ratio": "data.crop_ratio",
    "hflip horizontal_flip": "data.flip",
    "loader data_loader": "data.backend",
    "aa auto_augment autoaugment randaugment ra": "augmentation.policy",
    "ra_magnitude": "augmentation.magnitude",
    "color_jitter colour_jitter color": "augmentation.colour",
    "mixup_alpha": "augmentation.mixup",
    "cutmix_alpha": "augmentation.cutmix",
    "reprob random_erase random_erasing": "augmentation.erasing",
    "epoch epochs num_epochs num_train_epochs max_epochs n_epochs start_epoch": "schedule.epochs",
    "sched scheduler lr_scheduler lr_schedule lr_scheduler_type": "schedule.kind",
    "warmup warmup_epochs lr_warmup_epochs": "schedule.warmup_epochs",
    "num_warmup_steps lr_warmup_steps warmup_iters": "schedule.warmup_steps",
    "lr_min eta_min": "schedule.min_lr",
    "cooldown": "schedule.cooldown_epochs",
    "patience_epochs lr_patience": "schedule.patience",
    "decay_power poly_power": "schedule.power",
    "early_stopping early_stop early_stopping_patience": "schedule.stop_after",
    "decay_rate dr lr_gamma gamma": "schedule.decay_rate",
    "decay_epochs lr_step_size step_size": "schedule.decay_epochs",
    "opt optim optimiser optimizer": "optimizer.name",
    "lr learning_rate base_lr lr_base eta": "optimizer.lr",
    "lr_base_size": "optimizer.lr_batch_size",
    "wd weight_decay l2": "optimizer.weight_decay",
    "opt_eps eps adam_epsilon": "optimizer.epsilon",
    "opt_betas adam_betas beta1 beta2": "optimizer.betas",
    "clip clip_grad clip_grad_norm max_grad_norm gradient_clip_val grad_clip": "optimizer.clip_norm",
    "criterion loss_fn bce_loss": "loss.name",
    "smoothing label_smoothing_factor": "loss.label_smoothing",
    "aux_weight": "loss.auxiliary_weight",
    "aux aux_logits": "network.auxiliary",
    "drop dropout_rate drop_rate": "network.dropout",
    "drop_connect drop_path_rate stochastic_depth": "network.drop_path",
    "width_mult width_multiplier": "network.width",
    "ema model_ema model_ema_decay ema_decay": "ema.decay",
    "teacher kd_model kd_model_name": "distillation.teacher",
    "kd_temperature": "distillation.temperature",
    "compile torchcompile torch_compile jit torchscript": "compile.enabled",
    "torchcompile_mode torch_compile_mode": "compile.mode",
    "gpu gpus no_cuda accelerator devices": "device",
    "sync_bn sync_batchnorm": "strategy.sync_batchnorm",
    "dist ddp fsdp parallel deepspeed dist_backend": "strategy.name",
    "zero stage": "strategy.zero_stage",
    "use_deterministic_algorithms cudnn_deterministic": "run.deterministic",
    "random_state": "run.seed",
    "resume resume_from_checkpoint auto_resume": "run.resume weights",
    "o out output output_dir outdir save_dir save_path work_dir logdir log_dir experiment name project results_file":
        "output run.dir json",
    "target_accuracy": "run.target_top1",
    "log_interval print_freq logging_steps log_every_n_steps log_freq": "monitor.every_steps",
    "log_wandb wandb tensorboard report_to logger mlflow": "monitor.trackers",
    "checkpoint_hist save_total_limit save_top_k": "checkpoint.keep",
    "save_interval save_freq save_steps recovery_interval": "checkpoint.every_steps",
    "eval_interval eval_freq eval_every": "evaluation.every_epochs",
    "config cfg config_file yaml c": "recipe",
    "topk k": "top",
    "jpeg_quality": "quality",
    "list dry print_only": "dry_run",
}  # fmt: skip

VALUES = {
    "float32 float single 32 none": "fp32",
    "float16 half 16 amp mixed": "fp16",
    "bfloat16": "bf16",
    "gpu nvidia cuda:0 0": "cuda",
    "mps rocm tpu": "auto",
    "steplr multistep multisteplr": "step",
    "exponentiallr exp": "exponential",
    "cosineannealinglr cos": "cosine",
    "reducelronplateau": "plateau",
    "onecyclelr one_cycle": "onecycle",
    "polynomiallr linear": "polynomial",
    "ra randaug rand": "randaugment",
    "ta ta_wide": "trivialaugment",
    "ce crossentropyloss softmax": "cross_entropy",
    "bcewithlogitsloss": "bce",
    "fsdp distributed distributeddataparallel": "ddp",
    "torch pytorch pil pillow dataloader torchvision": "native state_dict",
    "nvjpeg": "dali",
    "wds webdataset tar tars": "shards",
    "imagefolder directory dir": "folder",
    "torchscript jit pt2 exported_program": "torch_export",
    "pt pth": "state_dict",
    "validation test eval": "val",
    "training": "train",
    "tb": "tensorboard",
}


_ALIKE = 0.75  # how much a misspelt name is like the one that was meant, at least


def _spread(table: dict[str, str]) -> dict[str, list[str]]:
    return {name: ours.split() for names, ours in table.items() for name in names.split()}


_OPTIONS, _VALUES = _spread(OPTIONS), _spread(VALUES)


def option_meant(name: str, known: Iterable[str]) -> str:
    """The option of `known` that `name` means, all without the dashes before them."""
    known = [option for option in known if option != "help"] or list(known)
    plain = {_plain(option): option for option in known}
    name = _plain(name)
    section, _, leaf = name.rpartition(".")
    if name in plain:
        return plain[name]
    inside = [option for option in plain if option.startswith(f"{section}.")] if section else []
    for likely in (inside, list(plain)):  # the section that was named knows its options best
        meant = _of(_OPTIONS.get(leaf, ()), likely)
        if not meant and (alike := [option for option in likely if _same(option.rpartition(".")[2], leaf)]):
            meant = max(alike, key=lambda option: _closeness(name, option))
        if meant:
            return plain[meant]
    if sections := [option for option in plain if option.startswith(f"{name}.")]:
        return plain[sections[0]]
    # Misspelt: the nearest of our names and of the others', which lead to ours.
    others = {other: meant for other, ours in _OPTIONS.items() if len(other) > 3 and (meant := _of(ours, plain))}
    scores = {option: _closeness(name, option) for option in plain}
    scores |= {other: _closeness(leaf, other) for other in others if not section}
    best = max(scores, key=lambda word: (scores[word], word in plain))
    if scores[best] < _ALIKE:  # not misspelt: a word of the name may say more (max_lr)
        for word in reversed(leaf.split("_")):
            if meant := _of(_OPTIONS.get(word, ()), plain):
                return plain[meant]
    return plain[others.get(best, best)]


def value_meant(value: str, choices: Iterable[str]) -> str:
    """`"; the nearest is X"` for the one of `choices` that `value` means, or nothing where none is near."""
    plain = {_plain(choice): choice for choice in choices}
    value = _plain(value)
    near = [word for word in plain if word.startswith(value) or value.startswith(word)] if len(value) > 2 else []
    found = _of(_VALUES.get(value, ()), plain) or next(iter(near or get_close_matches(value, list(plain), 1)), None)
    return f"; the nearest is {plain[found]}" if found else ""


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _of(ours: Iterable[str], known: Iterable[str]) -> str | None:
    return next((name for name in ours if name in known), None)


def _same(leaf: str, given: str) -> bool:
    """Whether two names are one, or one of them the other's initials (wd, weight_decay)."""
    initials = ["".join(word[:1] for word in name.split("_")) for name in (leaf, given)]
    return leaf == given or leaf == initials[1] or given == initials[0]


def _closeness(given: str, option: str) -> float:
    """0 to 1: how much two names look alike, as they stand or, where no section was given, the last part of the option's."""
    whole = SequenceMatcher(None, given, option).ratio()
    return whole if "." in given else max(whole, SequenceMatcher(None, given, option.rpartition(".")[2]).ratio())
