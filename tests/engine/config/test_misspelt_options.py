"""Command lines with an option or a value that does not exist: one line that names the one that was meant."""

from __future__ import annotations

import re

import pytest

from benchmarks.measuring.command_line import Parser as BenchmarkParser
from engine.__main__ import COMMANDS
from engine.completion import completion_of
from engine.config.command_line import load_config
from engine.config.options import Config, ConfigError, leaves
from engine.evaluate import parse as evaluate
from engine.export import parse as export
from engine.predict import parse as predict
from engine.report import main as report
from pipelines import DataError
from pipelines.prepare import parse as prepare
from pipelines.support.entry_point import Parser
from pipelines.support.meant import OPTIONS, option_meant, value_meant


@pytest.mark.parametrize(
    ("parse", "arguments", "meant"),
    [
        (evaluate, ["--weigths", "x"], "--weights"),  # before the required one is missed
        (evaluate, ["--weights=x", "--data.batch-size=3"], "--data.batch_size"),
        (predict, ["a.jpg", "--weights", "x", "--sheets", "s.png"], "--sheet"),
        (export, ["--weights", "x", "--layuot", "timm"], "--layout"),
        (evaluate, ["--checkpoint", "x"], "--weights"),
        (evaluate, ["--data", "x"], "--data.path"),
        (evaluate, ["--batch-size", "3"], "--data.batch_size"),
        (predict, ["a.jpg", "--model", "x"], "--weights"),
        (predict, ["a.jpg", "--weights", "x", "--topk", "3"], "--top"),
        (export, ["--checkpoint", "x"], "--weights"),
        (export, ["--weights", "x", "--img-size", "299"], "--resolution"),
        (prepare, ["folder", "x", "--num-workers", "3"], "--workers"),
        (report, ["x", "--halp"], "--help"),
        (BenchmarkParser("x", batch_size=8).parse_args, ["--bs", "3"], "--batch-size"),
        (BenchmarkParser("x", batch_sizes=8).parse_args, ["--batch-size", "3"], "--batch-sizes"),
    ],
)
def test_a_misspelt_option_is_answered_with_the_nearest(parse, arguments, meant, capsys):
    with pytest.raises((DataError, SystemExit)) as refused:
        parse(arguments)
    said = (
        str(refused.value) if isinstance(refused.value, DataError) else capsys.readouterr().err.removeprefix("error: ")
    )
    assert re.match(f"option --[^ ]+ does not exist; the nearest is {meant} ", said)


def test_a_name_that_is_cut_short_is_taken_where_it_is_one_and_else_told_what_it_may_be():
    parser = Parser(prog="x")
    for name in ("port", "precision", "predictions"):
        parser.add_argument(f"--{name}")
    assert (
        parser.parse_args(["--po", "1"]).port == "1"
    )  # beside the option that shells alone ask with, --print-completion
    with pytest.raises(DataError, match="option --pre may be --precision or --predictions: write more of it"):
        parser.parse_args(["--pre", "1"])


# Names of timm's train.py, torchvision's reference script and others, and slips of the finger.
@pytest.mark.parametrize(
    ("given", "meant"),
    [
        line.split()
        for line in """
        lr optimizer.lr | learning-rate optimizer.lr | min-lr schedule.min_lr | max-lr optimizer.lr | learing_rate optimizer.lr
        epochs schedule.epochs | epcohs schedule.epochs | num-epochs schedule.epochs | warmup-epochs schedule.warmup_epochs
        batch_size data.batch_size | batch-size data.batch_size | batchsize data.batch_size | bs data.batch_size
        model network.name | arch network.name | pretrained network.weights | initial-checkpoint network.weights
        workers data.workers | num-workers data.workers | data data.path | data-dir data.path | data-path data.path
        wd optimizer.weight_decay | weight-decay optimizer.weight_decay | opt optimizer.name | clip-grad optimizer.clip_norm
        sched schedule.kind | lr-scheduler schedule.kind | lr-step-size schedule.decay_epochs | decay-rate schedule.decay_rate
        opt-betas optimizer.betas | patience-epochs schedule.patience | cooldown-epochs schedule.cooldown_epochs
        warmup-steps schedule.warmup_steps | eta-min schedule.min_lr | early-stopping-patience schedule.stop_after
        amp precision | amp-dtype precision | fp16 precision | output run.dir | output-dir run.dir | resume run.resume
        img-size data.resolution | train-crop-size data.resolution | val-crop-size evaluation.resolution
        smoothing loss.label_smoothing | label-smoothing loss.label_smoothing | mixup augmentation.mixup | aa augmentation.policy
        mixup-alpha augmentation.mixup | reprob augmentation.erasing | random-erase augmentation.erasing | hflip data.flip
        color-jitter augmentation.colour | drop network.dropout | drop-path network.drop_path | model-ema ema.decay
        model-ema-decay ema.decay | seed run.seed | sync-bn strategy.sync_batchnorm | torchcompile compile.enabled
        log-interval monitor.every_steps | print-freq monitor.every_steps | checkpoint-hist checkpoint.keep
        log-wandb monitor.trackers | dryrun dry-run | config recipe | schedule.lr optimizer.lr | gpus device
        """.replace("|", "\n").strip().splitlines()
    ],
)  # fmt: skip
def test_a_training_knows_how_others_call_its_options(given, meant):
    assert option_meant(given, [key for key, _ in leaves(Config())] + ["recipe", "dry-run"]) == meant


def test_letters_are_answered_too():
    for letter, meant in (("b", "data.batch_size"), ("j", "data.workers")):
        with pytest.raises(ConfigError, match=f"option -{letter} does not exist; the nearest is --{meant} "):
            load_config([f"-{letter}", "8"])


def test_every_name_that_is_suggested_exists_and_a_real_one_is_never_renamed():
    options = {key for key, _ in leaves(Config())} | {"recipe"}
    for module, _ in COMMANDS.values():
        if module not in ("engine.train", "engine.completion"):
            options |= {
                option[2:].replace("-", "_") for option in re.findall(r"--[\w.-]+", completion_of(module, "bash"))
            }
    assert {ours for line in OPTIONS.values() for ours in line.split()} - options - {"dry_run"} == set()
    assert [key for key in options if option_meant(key, options) != key] == ["help"]


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["--precision", "float16"], "fp16"),
        (["--precision", "bfloat16"], "bf16"),
        (["--device", "gpu"], "cuda"),
        (["--schedule.kind", "cosin"], "cosine"),
        (["--schedule.kind", "steplr"], "step"),
        (["--schedule.kind", "ReduceLROnPlateau"], "plateau"),
        (["--schedule.kind", "poly"], "polynomial"),
        (["--augmentation.policy", "rand-augment"], "randaugment"),
        (["--loss.name", "crossentropy"], "cross_entropy"),
        (["--data.backend", "nvjpeg"], "dali"),
        (["--monitor.trackers", "tensorbord"], "tensorboard"),
    ],
)
def test_a_value_that_is_none_of_the_choices_is_answered_with_the_one_that_was_meant(arguments, meant):
    with pytest.raises(ConfigError, match=rf"^option {arguments[0]}: .* the nearest is {meant}$"):
        load_config(arguments)


@pytest.mark.parametrize(
    ("parse", "arguments", "meant"),
    [
        (evaluate, ["--weights", "x", "--split", "validation"], "val"),
        (predict, ["--weights", "x", "a.jpg", "--precision", "half"], "fp16"),
        (export, ["--weights", "x", "--format", "torchscript"], "torch_export"),
        (prepare, ["imagnet"], "imagenet"),
        (prepare, ["folder", "x", "--to", "webdataset", "--output", "y"], "shards"),
    ],
)
def test_so_are_those_of_the_other_commands(parse, arguments, meant):
    with pytest.raises(DataError, match=f"; the nearest is {meant} \\(see "):
        parse(arguments)


def test_a_value_that_is_near_nothing_gets_no_guess():
    assert value_meant("zzz", ["auto", "fp32"]) == ""


def test_what_stands_behind_a_command_or_two_dashes_is_not_the_programs():
    assert predict(["--weights", "x", "--", "--odd.jpg"]).images == ["--odd.jpg"]
    parser = Parser(prog="p")
    commands = parser.add_subparsers(parser_class=Parser)
    commands.add_parser("folder").add_argument("--output")
    assert parser.parse_args(["folder", "--output", "x"]).output == "x"
    with pytest.raises(DataError, match="the nearest is --output"):
        parser.parse_args(["folder", "--outptu", "x"])
