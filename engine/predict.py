"""What pictures show, by a trained network:
`python engine/predict.py --weights FILE IMAGE... [--json FILE] [--sheet FILE.png]`.

FILE is a weights file (ours, or of torchvision, timm and others), a checkpoint, a run directory, or what engine/export.py
wrote. IMAGE is a file, a folder or a pattern such as 'photos/*.jpg'. Images that cannot be read are named and skipped,
and the exit status is then 2.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

# The repository root instead of this script's own folder: modules are found as engine.*, from any working directory.
_here = Path(__file__).resolve().parent
sys.path[:] = [str(_here.parent), *(entry for entry in sys.path if Path(entry).resolve() != _here)]

from engine.config.bounds import Bounds, bounds_of
from engine.config.checks import require_within
from engine.config.options import ConfigError, DataConfig
from engine.distributed.device import PRECISIONS, choose_device, compute_dtype
from engine.evaluation.settings import add_options, check_options, given_options
from engine.faults.exit_status import BAD_INPUT, DONE, run_entry_point
from engine.inference.classify import Prediction, find_images, predict
from engine.inference.models import open_model
from launch.alone import rank_or_alone
from pipelines.support.entry_point import Parser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="engine/predict.py", description="The most likely classes of images.")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a file, a folder, or a pattern in quotes")
    parser.add_argument(
        "--weights", required=True, help="weights, a checkpoint, a run directory, or an exported file (*.onnx, *.pt2)"
    )
    parser.add_argument(
        "--trust", action="store_true", help="open a *.pt2 file, which can run any code of its author's"
    )
    parser.add_argument("--top", type=int, default=5, help="classes to show for an image (default: 5)")
    parser.add_argument("--batch_size", type=int, default=32, help="images classified at a time (default: 32)")
    parser.add_argument(
        "--weights.classes", dest="classes", help="file of class names, in the order of the network's outputs"
    )
    add_options(parser, "--resolution")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="default: auto")
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="what computes (default: auto)"
    )
    parser.add_argument("--json", type=Path, help="write the predictions to this file as well")
    parser.add_argument("--sheet", type=Path, help="draw the images with their classes into this file (png, pdf, ...)")
    options = parser.parse_args(arguments)
    bounds = {"batch_size": dict(bounds_of(DataConfig()))["batch_size"], "top": Bounds(least=1, most=1_000_000)}
    require_within(vars(options), bounds)
    check_options(options, "resolution")
    return options


def main(arguments: Sequence[str]) -> int:
    """Predicts as the command line says, prints as it goes, and returns the exit status."""
    options = parse(arguments)
    images, passed_over = find_images(options.images)
    if passed_over:
        print(passed_over, file=sys.stderr, flush=True)
    device = choose_device(rank_or_alone(), options.device)
    dtype = compute_dtype(options.precision, device)
    model = open_model(options.weights, device, dtype, options.trust, options.classes, **given_options(options))
    print(f"shown: {model.settings} ({model.source})")
    predictions = []
    for prediction in predict(model, images, options.batch_size, options.top):
        predictions.append(prediction)
        show(prediction)
    if options.json:
        report = {"weights": options.weights, "network": model.name, "images": [p.as_dict() for p in predictions]}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    if options.sheet:
        from engine.inference.sheet import draw_sheet  # matplotlib is slow to import

        try:
            drawn = draw_sheet(predictions, model.settings, options.sheet)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot draw {options.sheet}: {error}") from None
        print(f"wrote {options.sheet} ({drawn})")
    bad = sum(bool(prediction.problem) for prediction in predictions)
    if bad:
        print(f"error: {bad} of {len(images)} images could not be read and were skipped", file=sys.stderr)
    return BAD_INPUT if bad else DONE


def show(prediction: Prediction) -> None:
    """Prints an image's classes, most likely first; a bad image goes to the error output."""
    if prediction.problem:
        print(f"{prediction.image}: skipped: {prediction.problem}", file=sys.stderr, flush=True)
        return
    print(prediction.image)
    for guess in prediction.guesses:
        print(f"  {guess.percent:6.2f}%  {guess.name}")
    sys.stdout.flush()


def command() -> NoReturn:
    """Runs the program on the command line and ends the process."""
    run_entry_point(main)


if __name__ == "__main__":
    command()
