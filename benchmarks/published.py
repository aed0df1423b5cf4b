"""What published weights reach here, beside what their publishers state: every named entry, evaluated on ImageNet.

    python benchmarks/published.py --data.path IMAGENET [--weights NAME ...]

Needs ImageNet's validation images and a network for what is not cached; each entry is evaluated as `engine/evaluate.py
--weights NAME` does. `--random` leaves out the download and takes random weights, to try the command and its table on any
dataset.
"""

import json
import sys
from argparse import Namespace
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

import engine.evaluate
from benchmarks.reporting import Result, Study
from inception import NetworkError, create_model, list_pretrained, save_weights
from inception.weights.published import Published, find_published
from pipelines import open_dataset

SHOWN = ("top1", "top5", "top1_among", "top5_among", "real_top1")

study = Study("published", __doc__, batch_size=64)
study.option("--data.path", dest="path", required=True, help="ImageNet, or a subset of it")
study.option("--data.real", dest="real", default="", help="real.json: count by ReaL labels as well")
study.option("--weights", nargs="+", default=list_pretrained(), metavar="NAME", help="which entries")
study.option("--random", action="store_true", help="take random weights instead of the published ones")


@study
def main(options: Namespace, result: Result) -> None:
    for name in options.weights:
        entry = find_published(name)
        try:
            with TemporaryDirectory() as folder:
                add(entry, options, Path(folder), result)
        except NetworkError as error:  # of one that cannot be fetched; the others may
            result.add_failure({"weights": name}, "top-1, %", str(error))
    result.note("Stated: by the installed library, which for timm's weights names no accuracy.")
    if options.random:
        result.note("With random weights, which tell nothing about the published ones.")


def add(entry: Published, options: Namespace, folder: Path, result: Result) -> None:
    """Evaluates an entry and adds its rows."""
    weights = random_weights(entry, folder, options.path) if options.random else entry.name
    given = ["--weights", weights, "--data.path", options.path, "--data.batch_size", options.batch_size]
    given += ["--data.real", options.real] if options.real else []
    file = folder / "result.json"
    engine.evaluate.main([str(word) for word in (*given, "--json", file)])
    found = json.loads(file.read_text())
    shown = f"{found['interpolation']}, {found['resize'] or found['crop_fraction']} to {found['resolution']}"
    case = {"weights": entry.name, "shown": shown, "images": found["count"]}
    for metric, stated in zip(("top-1", "top-5"), entry.accuracy):
        result.add(case, f"{metric} stated, %", stated)
    for name in SHOWN:
        if name in found:
            result.add(case, f"{name.replace('_', ', ').replace('top', 'top-')} measured, %", found[name])


def random_weights(entry: Published, folder: Path, data: str) -> str:
    """A file of random weights that are shown images as the entry's are, for the classes of a dataset."""
    classes = open_dataset(data, "val", progress=False).classes
    torch.manual_seed(0)
    network = create_model(entry.network, len(classes))
    metadata = network.metadata() | entry.metadata | {"classes": list(classes)}
    save_weights(folder / "random.safetensors", network.state_dict(), metadata)
    return str(folder / "random.safetensors")


if __name__ == "__main__":
    study.start()
