"""Evaluate weights on a split: `python engine/evaluate.py --weights FILE --data.path DIR [--json FILE]`.

Also under torchrun, on several ranks; every image counts once on any number of them.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

# The repository root instead of this script's own folder: modules are found as engine.*, from any working directory.
_here = Path(__file__).resolve().parent
sys.path[:] = [str(_here.parent), *(entry for entry in sys.path if Path(entry).resolve() != _here)]

import torch

from engine.config.bounds import bounds_of
from engine.config.checks import require_within
from engine.config.options import ConfigError, DataConfig, StrategyConfig
from engine.distributed.device import PRECISIONS, compute_dtype
from engine.distributed.strategies import join
from engine.evaluation.classes import open_with, output_classes, present
from engine.evaluation.evaluator import evaluate
from engine.evaluation.reassessed import Reassessed
from engine.evaluation.settings import add_options, check_options, given_options, settings_of
from engine.faults.exit_status import run_entry_point
from engine.graphs.scorer import Scorer
from engine.training.loaders import evaluation_loader, open_split, print_remarks
from inception import network_from_weights
from launch.alone import rank_or_alone
from pipelines import DataError
from pipelines.support.entry_point import Parser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    defaults = DataConfig()
    parser = Parser(prog="engine/evaluate.py", description="Top-1 and top-5 accuracy of a network.")
    parser.add_argument(
        "--weights", required=True, help="a run's best.safetensors, one of its checkpoints, or its directory"
    )
    parser.add_argument("--data.path", dest="path", default="", help="dataset (default: the embedded sample)")
    parser.add_argument("--data.train", dest="train", default="", help="training split that lies apart")
    parser.add_argument(
        "--data.val", dest="val", default="", help="validation split that lies apart: a folder, list, pattern"
    )
    parser.add_argument(
        "--weights.classes",
        "--data.classes",
        dest="classes",
        help="file of class names, in the order of the network's outputs",
    )
    parser.add_argument(
        "--data.held_out", dest="held_out", type=float,
        help="of a dataset without splits, the share of each class that is val (default: as the weights were trained)",
    )  # fmt: skip
    parser.add_argument("--data.real", dest="real", help="real.json: count the first guess by ReaL labels too")
    parser.add_argument("--split", choices=["val", "train"], default="val", help="default: val")
    parser.add_argument("--data.backend", dest="backend", default=defaults.backend, help="what decodes (default: auto)")
    parser.add_argument(
        "--data.workers", dest="workers", type=int, default=0, help="decoding threads (default: the cores)"
    )
    parser.add_argument(
        "--data.batch_size", dest="batch_size", type=int, default=64, help="images of one rank (default: 64)"
    )
    parser.add_argument(
        "--data.on_error", dest="on_error", choices=["raise", "skip"], default="raise", help="default: raise"
    )
    parser.add_argument("--data.quarantine", dest="quarantine", help="file that lists images to leave out")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="arithmetic (default: auto)")
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="what computes (default: auto)"
    )
    add_options(parser, "--data.resolution")
    parser.add_argument("--json", type=Path, help="write the result to this file as well")
    options = parser.parse_args(arguments)
    names, limits = ["batch_size", "workers"], dict(bounds_of(defaults))
    names += ["held_out"] if options.held_out is not None else []
    require_within(
        {f"data.{name}": vars(options)[name] for name in names}, {f"data.{name}": limits[name] for name in names}
    )
    check_options(options, "data.resolution")
    return options


def main(arguments: Sequence[str]) -> int:
    """Evaluates as the command line says and prints one line; returns the exit status."""
    options = parse(arguments)
    environment = rank_or_alone()
    network, weights = network_from_weights(options.weights)
    settings, source = settings_of(network, weights.metadata, weights.assumed, **given_options(options))
    trained_with = weights.metadata.get("held_out", DataConfig.held_out)
    held_out = trained_with if options.held_out is None else options.held_out
    data = DataConfig(
        path=options.path,
        train=options.train,
        val=options.val,
        backend=options.backend,
        workers=options.workers,
        on_error=options.on_error,
        held_out=held_out,
    )
    classes, assumed = output_classes(options.classes, weights.metadata.get("classes"), network.num_classes)
    opened = partial(
        open_split,
        data,
        options.split,
        quarantine=options.quarantine,
        exif=settings.exif,
        progress=environment.local_rank == 0,
    )
    try:
        dataset, called = open_with(classes, opened)
    except DataError:
        if not assumed:
            raise
        classes, assumed, called = None, "", ""
        dataset = opened(classes=None)
    if environment.rank == 0:
        print_remarks(dataset)
        if dataset.held_out not in (0.0, trained_with):
            print(
                f"{options.weights} was trained with {100 * trained_with:g}% held out; here it is "
                f"{100 * dataset.held_out:g}%, so that some of these images may have been trained on"
            )
        if classes is None:
            assumed = f"outputs without names are taken for the classes of {dataset.path}, in their order"
        print(*(f"{options.weights}: {words}\n" for words in (assumed, called) if words), sep="", end="")
    if len(dataset.classes) != network.num_classes:
        raise ConfigError(
            f"{options.weights} tells {network.num_classes} classes apart and {dataset.path} has {len(dataset.classes)}"
        )
    communicator = join(environment, StrategyConfig(), options.device)
    network.to(communicator.device).to(memory_format=torch.channels_last).eval()
    among = present(dataset)
    restricted = len(among) < network.num_classes
    scorer = Scorer(
        network,
        compute_dtype(options.precision, communicator.device),
        settings.flip,
        among.tolist() if restricted else None,
    ).to(communicator.device)
    real = Reassessed(options.real, dataset, classes, communicator) if options.real else None
    with evaluation_loader(data, dataset, settings, options.batch_size, communicator) as loader:
        result = evaluate(scorer, loader, options.batch_size, communicator, real, restricted=restricted)
    result |= real.result() if real else {}
    if communicator.is_main:
        unreadable = f", {result['unreadable']} could not be read" if result["unreadable"] else ""
        unreadable += f", {dataset.quarantined} left out by quarantine" if dataset.quarantined else ""
        print(f"shown: {settings} ({source})")
        print(
            f"{network.name} on {result['count']} images of {dataset.path}: top-1 {result['top1']:.2f}%, "
            f"top-5 {result['top5']:.2f}%, loss {result['loss']:.4f}{unreadable}"
        )
        if restricted:
            print(
                f"guessing among the {len(among)} classes of the dataset alone: top-1 {result['top1_among']:.2f}%, "
                f"top-5 {result['top5_among']:.2f}%"
            )
        if real:
            print(f"by ReaL labels, on {result['real_count']} images: top-1 {result['real_top1']:.2f}%")
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(
                json.dumps(
                    {"weights": options.weights, "split": options.split, **settings.to_dict(), **result}, indent=2
                )
                + "\n"
            )
    communicator.close()
    return 0


def command() -> NoReturn:
    """Runs the program on the command line and ends the process."""
    run_entry_point(main)


if __name__ == "__main__":
    command()
