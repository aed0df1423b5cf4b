"""Evaluate weights on a split: `python engine/evaluate.py --weights FILE --data.path DIR [--json FILE] [--report FILE.html]`.

Several files are an ensemble, whose predictions are averaged, as are those of several crops. Also under torchrun, on several
ranks; every image counts once on any number of them.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

# The repository root instead of this script's own folder: modules are found as engine.*, from any working directory.
_here = Path(__file__).resolve().parent
sys.path[:] = [str(_here.parent), *(entry for entry in sys.path if Path(entry).resolve() != _here)]

from engine.config.bounds import bounds_of
from engine.config.checks import require_within
from engine.config.options import ConfigError, DataConfig, StrategyConfig
from engine.distributed.communicator import Communicator
from engine.distributed.device import PRECISIONS, compute_dtype
from engine.distributed.strategies import join
from engine.evaluation.answers import Answers
from engine.evaluation.classes import open_with, output_classes, present
from engine.evaluation.evaluator import Together, evaluate
from engine.evaluation.findings import Findings
from engine.evaluation.members import KINDS, Member, open_members
from engine.evaluation.passes import CROPS, Earlier, crop_plans, crops_in_words
from engine.evaluation.predictions import check_name, write_predictions
from engine.evaluation.reassessed import Reassessed
from engine.evaluation.settings import Settings, add_options, check_options, given_options
from engine.evaluation.several_labels import check_several, evaluate_several
from engine.faults.exit_status import run_entry_point
from engine.monitoring.report.evaluation import write_evaluation
from engine.training.loaders import evaluation_loader, open_split, print_remarks
from launch.alone import rank_or_alone
from launch.environment import Environment
from pipelines import DataError, Dataset
from pipelines.support.entry_point import Parser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    defaults = DataConfig()
    parser = Parser(
        prog="engine/evaluate.py", description="Top-1 and top-5 accuracy of a network, by class, calibration."
    )
    add = parser.add_argument_group("what is evaluated").add_argument
    add(
        "--weights", required=True, nargs="+", metavar="FILE",
        help="a run's best.safetensors, one of its checkpoints, its directory, a published name; several are an ensemble",
    )  # fmt: skip
    add(
        "--weights.kind", dest="kind", choices=list(KINDS), default="auto",
        help="of checkpoints: averaged weights, those that were trained, or both beside each other (default: averaged, if any)",
    )  # fmt: skip
    add = parser.add_argument_group("on what").add_argument
    add("--data.path", dest="path", default="", help="dataset (default: the embedded sample)")
    add("--data.train", dest="train", default="", help="training split that lies apart")
    add("--data.val", dest="val", default="", help="validation split that lies apart: a folder, list, pattern")
    add(
        "--weights.classes", "--data.classes", dest="classes",
        help="file of class names, in the order of the network's outputs",
    )  # fmt: skip
    add(
        "--data.held_out", dest="held_out", type=float,
        help="of a dataset without splits, the share of each class that is val (default: as the weights were trained)",
    )  # fmt: skip
    add("--data.real", dest="real", help="real.json: count the first guess by ReaL labels too")
    add("--split", choices=["val", "train"], default="val", help="default: val")
    add("--crops", type=int, choices=CROPS, default=1, help="views of each image that are averaged (default: 1)")
    add("--data.backend", dest="backend", default=defaults.backend, help="what decodes (default: auto)")
    add("--data.workers", dest="workers", type=int, default=0, help="decoding threads (default: the cores)")
    add("--data.batch_size", dest="batch_size", type=int, default=64, help="images of one rank (default: 64)")
    add("--data.on_error", dest="on_error", choices=["raise", "skip"], default="raise", help="default: raise")
    add("--data.quarantine", dest="quarantine", help="file that lists images to leave out")
    add = parser.add_argument_group("what computes").add_argument
    add("--precision", choices=PRECISIONS, default="auto", help="arithmetic (default: auto)")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="what computes (default: auto)")
    add_options(parser, "--data.resolution")
    add = parser.add_argument_group("what is written").add_argument
    add(
        "--json",
        type=Path,
        help="write the result to this file as well, by class and with the reliability of confidence",
    )
    add("--report", type=Path, metavar="FILE.html", help="write a page that shows the result")
    add("--predictions", type=Path, metavar="FILE.csv", help="write the guesses for each image: *.csv or *.parquet")
    options = parser.parse_args(arguments)
    names, limits = ["batch_size", "workers"], dict(bounds_of(defaults))
    names += ["held_out"] if options.held_out is not None else []
    require_within(
        {f"data.{name}": vars(options)[name] for name in names}, {f"data.{name}": limits[name] for name in names}
    )
    check_options(options, "data.resolution")
    if options.predictions:
        check_name(options.predictions)
    for file in filter(None, (options.json, options.report, options.predictions)):
        try:  # before an evaluation that may take hours
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot write {file}: {error.strerror}") from None
    return options


def main(arguments: Sequence[str]) -> int:
    """Evaluates as the command line says and prints what was found; returns the exit status."""
    options = parse(arguments)
    environment = rank_or_alone()
    first, *others = KINDS[options.kind]
    members = open_members(options.weights, first, given_options(options))
    shown = members[0].settings
    data, dataset, classes = open_data(options, members, environment)
    communicator = join(environment, StrategyConfig(), options.device)
    answers = Answers(communicator)
    findings = Findings(members[0].network.num_classes, communicator)
    if dataset.combinations is None:
        result = measure(options, members, data, dataset, classes, communicator, answers, findings)
    else:
        check_several(options, dataset)
        with evaluation_loader(data, dataset, shown, options.batch_size, communicator) as loader:
            dtype = compute_dtype(options.precision, communicator.device)
            result = evaluate_several(members[0].network, shown.flip, dtype, loader, options.batch_size, communicator)
    if communicator.is_main:
        if dataset.combinations is None:
            result |= answers.by_class(dataset.classes) | answers.calibration()
        tell(options, members, dataset, result)
    for averaged in others:
        members = open_members(options.weights, averaged, given_options(options))
        result["trained"] = measure(options, members, data, dataset, classes, communicator)
        if communicator.is_main:
            tell(options, members, dataset, result["trained"])
    if communicator.is_main:
        write(options, shown, dataset, result, answers, findings)
    communicator.close()
    return 0


def open_data(
    options: argparse.Namespace, members: Sequence[Member], environment: Environment
) -> tuple[DataConfig, Dataset, list[str] | None]:
    """How the split is read, the split, whose labels are places among the network's outputs, and the names of those, if anybody
    knows them. Prints what was assumed. Raises ConfigError for a dataset of another number of classes."""
    weights, metadata, count = members[0].file, members[0].metadata, members[0].network.num_classes
    trained_with = metadata.get("held_out", DataConfig.held_out)
    data = DataConfig(
        path=options.path,
        train=options.train,
        val=options.val,
        backend=options.backend,
        workers=options.workers,
        on_error=options.on_error,
        held_out=trained_with if options.held_out is None else options.held_out,
    )
    classes, assumed = output_classes(options.classes, metadata.get("classes"), count)
    exif = {member.settings.exif for member in members}
    if len(exif) > 1:
        raise ConfigError(
            "some of the weights want images turned as their EXIF says and others not: give --evaluation.exif"
        )
    opened = partial(
        open_split,
        data,
        options.split,
        quarantine=options.quarantine,
        exif=exif.pop(),
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
                f"{weights} was trained with {100 * trained_with:g}% held out; here it is "
                f"{100 * dataset.held_out:g}%, so that some of these images may have been trained on"
            )
        if classes is None:
            assumed = f"outputs without names are taken for the classes of {dataset.path}, in their order"
        print(*(f"{weights}: {words}\n" for words in (assumed, called) if words), sep="", end="")
    if len(dataset.classes) != count:
        raise ConfigError(f"{weights} tells {count} classes apart and {dataset.path} has {len(dataset.classes)}")
    return data, dataset, classes


def measure(
    options: argparse.Namespace,
    members: Sequence[Member],
    data: DataConfig,
    dataset: Dataset,
    classes: list[str] | None,
    communicator: Communicator,
    *collectors: Answers | Findings,
) -> dict[str, Any]:
    """What `evaluate` returns for the mean prediction of the members on the crops, and the counts by ReaL labels."""
    among = present(dataset)
    restricted = len(among) < members[0].network.num_classes
    real = [Reassessed(options.real, dataset, classes, communicator)] if options.real else []
    dtype = compute_dtype(options.precision, communicator.device)
    passes = []
    for member in members:
        flip = member.settings.flip or options.crops > 1
        order = None if options.classes else classes
        scorer = member.scorer(dtype, communicator.device, flip, among.tolist() if restricted else None, order)
        whole = member.settings.plan(len(dataset), options.batch_size * communicator.world_size)
        plans = crop_plans(member.settings, options.crops, whole)
        passes += [(scorer, member.settings, plan, share / len(members)) for plan, share in plans]
    earlier = Earlier() if len(passes) > 1 else None
    for number, (scorer, settings, plan, share) in enumerate(passes):
        with evaluation_loader(data, dataset, settings, options.batch_size, communicator, plan) as loader:
            if earlier is not None and number + 1 < len(passes):
                earlier.add(scorer, loader, share)
                continue
            together = Together(*collectors, *real)
            result = evaluate(
                scorer, loader, options.batch_size, communicator, together,
                restricted=restricted, earlier=earlier, share=share,
            )  # fmt: skip
    return result | (real[0].result() if real else {})


def tell(options: argparse.Namespace, members: Sequence[Member], dataset: Dataset, result: dict[str, Any]) -> None:
    """Prints what was found."""
    unreadable = f", {result['unreadable']} could not be read" if result["unreadable"] else ""
    unreadable += f", {dataset.quarantined} left out by quarantine" if dataset.quarantined else ""
    for member in members:
        name = f"{member.file}, " if len(members) > 1 else ""
        print(f"shown: {name}{member.settings} ({member.source})")
    if options.crops > 1:
        print(*dict.fromkeys(crops_in_words(member.settings, options.crops) for member in members), sep="\n")
    called = " and ".join(dict.fromkeys(member.network.name for member in members))
    called = f"the mean of {len(members)} ({called})" if len(members) > 1 else called
    print(
        f"{called} on {result['count']} images of {dataset.path}: top-1 {result['top1']:.2f}%, "
        f"top-5 {result['top5']:.2f}%, loss {result['loss']:.4f}{unreadable}"
    )
    if "top1_among" in result:
        print(
            f"guessing among the {len(present(dataset))} classes of the dataset alone: top-1 {result['top1_among']:.2f}%, "
            f"top-5 {result['top5_among']:.2f}%"
        )
    if "map" in result:
        print(f"several labels an image: mean average precision {result['map']:.2f}%")
    if "real_top1" in result:
        print(f"by ReaL labels, on {result['real_count']} images: top-1 {result['real_top1']:.2f}%")
    if "ece" in result:
        worst = min(result["per_class"], key=lambda row: row["top1"])
        print(
            f"classes: {result['mean_class_top1']:.2f}% right on average, worst {worst['class']} {worst['top1']:.2f}% of "
            f"{worst['images']}; calibration: ECE {result['ece']:.2f}%, confidence {result['confidence']:.2f}% on average"
        )


def write(
    options: argparse.Namespace,
    shown: Settings,
    dataset: Dataset,
    result: dict[str, Any],
    answers: Answers,
    findings: Findings,
) -> None:
    """Writes the files that were asked for. Raises ConfigError for one that cannot be written."""
    if options.predictions:
        write_predictions(options.predictions, answers, dataset, dataset.classes)
    weights = options.weights[0] if len(options.weights) == 1 else options.weights
    asked = {"weights": weights, "split": options.split, "crops": options.crops}
    if options.json:
        try:
            options.json.write_text(json.dumps({**asked, **shown.to_dict(), **result}, indent=2) + "\n")
        except OSError as error:
            raise ConfigError(f"cannot write {options.json}: {error.strerror}") from None
    if options.report:
        words = f"{shown}; {crops_in_words(shown, options.crops)}" if options.crops > 1 else str(shown)
        write_evaluation(options.report, options.weights, words, dataset.path, findings.found(dataset, result))


def command() -> NoReturn:
    """Runs the program on the command line and ends the process."""
    run_entry_point(main)


if __name__ == "__main__":
    command()
