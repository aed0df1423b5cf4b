"""Trained weights as a file for other programs:
`python engine/export.py --weights FILE --format onnx|torch_export|safetensors|state_dict --output FILE`, or `--to hf:FOLDER`.

ONNX and torch.export files are run once and compared with the network before the program says that they are there: ONNX by
onnxruntime, and by OpenVINO where that is installed. In int8 their accuracy is measured beside that in fp32.
"""

import argparse
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

# The repository root instead of this script's own folder: modules are found as engine.*, from any working directory.
_here = Path(__file__).resolve().parent
sys.path[:] = [str(_here.parent), *(entry for entry in sys.path if Path(entry).resolve() != _here)]

import torch
from torch import Tensor

from engine.config.bounds import Bounds
from engine.config.checks import require_within
from engine.config.options import ConfigError, DataConfig
from engine.evaluation.classes import open_with, output_classes
from engine.evaluation.settings import KEY, Settings, add_options, check_options, given_options, settings_of
from engine.faults.errors import TrainingFailed
from engine.faults.exit_status import DONE, run_entry_point
from engine.inference.exported_files import (
    SUFFIXES,
    differences,
    export_onnx,
    export_program,
    runtimes,
    set_metadata,
    written_whole,
)
from engine.inference.exported_graph import ExportedGraph
from engine.inference.hub_folder import HUB, write_folder
from engine.inference.quantisation import quantise, right_answers
from engine.training.loaders import open_split, print_remarks
from inception import Network, Weights, export_state, network_from_weights, save_weights
from inception.speed.folding import fold_batch_norm
from pipelines import Dataset, build_loader
from pipelines.plan.plan import SpreadPlan
from pipelines.support.entry_point import Parser

# Other libraries add up in another order; an error in the graph is larger by orders of magnitude. fp16 has 11 bits.
TOLERANCE = {"fp32": 1e-3, "fp16": 5e-2}
GRAPHS = ("onnx", "torch_export")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line. Raises ConfigError for options that contradict each other."""
    parser = Parser(prog="engine/export.py", description="A network as a file for other programs.")
    parser.add_argument("--weights", required=True, help="a weights file, a checkpoint, or a run directory")
    parser.add_argument("--format", choices=list(SUFFIXES), help="what is written")
    parser.add_argument("--output", type=Path, help="the file that is written")
    parser.add_argument(
        "--to",
        default="",
        metavar="hf:FOLDER",
        help="instead of both: a folder for the Hugging Face hub, which timm loads",
    )
    parser.add_argument(
        "--weights.classes", dest="classes", help="file of class names, in the order of the network's outputs"
    )
    add_options(parser, "--resolution")
    parser.add_argument(
        "--fold_batch_norm", action="store_true", help="normalisations become part of the convolutions: faster"
    )
    parser.add_argument(
        "--layout", choices=["torchvision", "timm"], help="whose names the tensors get (default: this project's)"
    )
    add_graph_options(parser)
    options = parser.parse_args(arguments)
    check_options(options, "resolution")
    counts = {name: Bounds(least=1, most=10_000_000) for name in ("calibration_images", "accuracy_images")}
    require_within(vars(options), {"batch": Bounds(least=0, most=65536), "opset": Bounds(least=1, most=1000), **counts})
    if options.to:
        if options.format or options.output or not re.fullmatch("hf:.+", options.to):
            raise ConfigError("--to takes hf:FOLDER, and no --format or --output beside it")
        options.format, options.output = HUB, Path(options.to.removeprefix("hf:")).expanduser()
    elif not (options.format and options.output):
        raise ConfigError("what is to be written where? Give --format and --output, or --to hf:FOLDER")
    graph, suffix = options.format in GRAPHS, SUFFIXES.get(options.format, "")
    if suffix and options.output.suffix != suffix:
        raise ConfigError(f"a file of format {options.format} must be named *{suffix}, not {options.output.name}")
    if options.fold_batch_norm and not graph:
        raise ConfigError(f"--fold_batch_norm is for onnx and torch_export; {options.format} keeps trainable weights")
    if options.resolution and not graph:
        raise ConfigError(f"--resolution is for onnx and torch_export; weights in {options.format} fit any size")
    check_graph_options(options)
    if options.classes and options.format == "state_dict":
        raise ConfigError(
            "--weights.classes has no place in a state dict, which holds tensors alone: choose safetensors"
        )
    if options.layout and options.format == HUB:
        raise ConfigError("--layout is for safetensors and state_dict; timm loads its own names from the hub")
    if options.layout and graph:
        raise ConfigError(f"--layout is for safetensors and state_dict; {options.format} has no names of tensors")
    return options


def add_graph_options(parser: argparse.ArgumentParser) -> None:
    """The options of ONNX and torch.export files."""
    add = parser.add_argument_group("of ONNX and torch.export files").add_argument
    add("--input", choices=["float32", "uint8"], default="float32", help="images: normalised float32, or uint8")
    add("--precision", choices=["fp32", "fp16", "int8"], default="fp32", help="what it computes in (default: fp32)")
    add("--batch", type=int, default=0, help="images at a time (default: any number)")
    add("--opset", type=int, help="version of ONNX's operators (default: what torch's exporter writes)")
    add("--data.path", dest="path", help="of int8: the dataset for ranges and accuracy (default: the embedded sample)")
    add("--calibration_images", type=int, default=256, help="of train, that ranges are measured on (default: 256)")
    add("--accuracy_images", type=int, default=1000, help="of val, that the accuracy is measured on (default: 1000)")


def check_graph_options(options: argparse.Namespace) -> None:
    """ConfigError for options of graphs that do not fit the format or each other."""
    given = {"input": options.input != "float32", "precision": options.precision != "fp32", "batch": options.batch}
    for name, is_given in given.items():
        if is_given and options.format not in GRAPHS:
            raise ConfigError(f"--{name} is for onnx and torch_export; {options.format} holds weights alone")
    if options.opset and options.format != "onnx":
        raise ConfigError(f"--opset is ONNX's; {options.format} has none")
    if options.precision == "int8" and options.format != "onnx":
        raise ConfigError(f"--precision int8 is for onnx, not {options.format}: onnxruntime quantises")
    if options.path is not None and options.precision != "int8":
        raise ConfigError("--data.path is for --precision int8, whose ranges are measured on images")


def main(arguments: Sequence[str]) -> int:
    """Exports as the command line says and prints one line; returns the exit status."""
    options = parse(arguments)
    network, weights = network_from_weights(options.weights)
    network.eval()
    settings, source = settings_of(network, weights.metadata, weights.assumed, **given_options(options))
    graph = options.format in GRAPHS
    size = settings.resolution if graph else network.input_size
    metadata = {**network.metadata(), "input_size": size, KEY: settings.to_dict()}
    names = ("classes", "held_out", "published", "several_labels")
    metadata |= {name: weights.metadata[name] for name in names if name in weights.metadata}
    if options.classes:
        metadata["classes"], _ = output_classes(options.classes, None, network.num_classes)
    try:
        if options.format == HUB:
            note = write_folder(network, settings, metadata, options.output)
        elif graph:
            note = write_graph(network, weights, settings, metadata, options)
        else:
            note = write_weights(network, metadata, options)
    except OSError as error:
        raise ConfigError(f"cannot write {options.output}: {error.strerror}") from None
    print(
        f"{network.name}: wrote {options.format} to {options.output} ({note}); to be shown images of {settings} ({source})"
    )
    return DONE


def write_graph(
    network: Network, weights: Weights, settings: Settings, metadata: dict[str, Any], options: argparse.Namespace
) -> str:
    """Writes ONNX or torch.export, runs it against the network, and returns what was found, in words.

    The file takes its name, and the place of one that was there, only after that.
    """
    int8 = options.precision == "int8"
    folded = options.fold_batch_norm or (int8 and network.options.get("batch_norm", True))
    dtype = torch.float16 if options.precision == "fp16" else torch.float32
    whole = fold_batch_norm(network) if folded else network
    graph = ExportedGraph(whole, settings.resolution, options.input == "uint8", dtype, options.batch)
    metadata |= {"takes": graph.takes, "precision": options.precision, "batch": options.batch}
    notes = [f"{graph.size} x {graph.size} pixels", f"{options.batch or 'any'} at a time"]
    if graph.takes == "uint8":
        notes.append("uint8, which it normalises itself; cutting out and resizing are the caller's")
    notes += [options.precision] if dtype == torch.float16 else []
    with written_whole(options.output) as temporary:
        if options.format == "onnx":
            export_onnx(graph, metadata, temporary, options.opset)
        else:
            export_program(graph, metadata, temporary)
        found = differences(network, temporary, graph)
        check(found, TOLERANCE["fp16" if dtype == torch.float16 else "fp32"], options.output)
        errors = ", ".join(f"{error:.1e} by {name}" for name, error in found.items())
        notes.append(f"relative error against PyTorch {errors}")
        if int8:
            notes.append(write_int8(graph, weights, settings, metadata, temporary, options))
    return "; ".join(notes)


def check(found: Mapping[str, float], tolerance: float, output: Path) -> None:
    """TrainingFailed where a runtime's logits differ by more than the tolerance."""
    for name, error in found.items():
        if not error <= tolerance:
            how = "gives logits that are not finite" if math.isnan(error) else f"differs by {error:.1e} from PyTorch's"
            kept = f"{output} is as it was" if output.exists() else "nothing was written"
            raise TrainingFailed(f"the exported network, run by {name}, {how}; {kept}")


def write_int8(
    graph: ExportedGraph,
    weights: Weights,
    settings: Settings,
    metadata: Mapping[str, Any],
    file: Path,
    options: argparse.Namespace,
) -> str:
    """Quantises the ONNX file in its place, and returns the accuracy before and after, in words."""
    train, val = (open_for(weights, settings, metadata["num_classes"], options, split) for split in ("train", "val"))
    images = (pixels for pixels, _ in images_of(train, graph, settings, options.calibration_images))
    with written_whole(file) as quantised:
        quantise(file, quantised, images)
        set_metadata(quantised, metadata)
        runs = {"in fp32": runtimes(file)["onnxruntime"]}
        runs |= {f"in int8 by {name}": run for name, run in runtimes(quantised).items()}
        right, count = right_answers(runs, images_of(val, graph, settings, options.accuracy_images))
    shares = ", ".join(f"{100 * hits / count:.2f}% {how}" for how, hits in right.items())
    return f"top-1 on {count} val images of {val.path}: {shares}"


def open_for(weights: Weights, settings: Settings, outputs: int, options: argparse.Namespace, split: Any) -> Dataset:
    """A split whose labels are places among the outputs. Raises DataError, and ConfigError for one of other classes."""
    classes, _ = output_classes(options.classes, weights.metadata.get("classes"), outputs)
    data = DataConfig(path=options.path or "", held_out=weights.metadata.get("held_out", DataConfig.held_out))
    dataset, _ = open_with(classes, partial(open_split, data, split, exif=settings.exif, progress=True))
    print_remarks(dataset)
    if len(dataset.classes) != outputs:
        raise ConfigError(
            f"{options.weights} tells {outputs} classes apart and {dataset.path} has {len(dataset.classes)}"
        )
    return dataset


def images_of(
    dataset: Dataset, graph: ExportedGraph, settings: Settings, count: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of about `count` images from all over a split, as the graph takes them, and their labels."""
    size = graph.batch or min(16, count)
    if len(dataset) < size:
        raise ConfigError(f"{dataset.path} has {len(dataset)} images of {dataset.split}, fewer than a batch of {size}")
    plan = SpreadPlan(**vars(settings.plan(len(dataset), size)))
    with build_loader(dataset, plan, "native", batch_size=size, resolution=settings.resolution) as loader:
        for batch in islice(loader, max(1, min(count, len(dataset)) // size)):
            yield batch.images if graph.takes == "uint8" else graph.normalise(batch.images), batch.labels


def write_weights(network: Network, metadata: Mapping[str, Any], options: argparse.Namespace) -> str:
    """Writes safetensors or a state dict, with the names that were asked for, and returns a note in words."""
    state = export_state(network, options.layout) if options.layout else network.state_dict()
    if options.format == "safetensors":
        save_weights(options.output, state, metadata)
    else:
        with written_whole(options.output) as temporary:
            torch.save({name: tensor.cpu() for name, tensor in state.items()}, temporary)
    return f"{len(state)} tensors" + (f" as {options.layout} names them" if options.layout else "")


def command() -> NoReturn:
    """Runs the program on the command line and ends the process."""
    run_entry_point(main)


if __name__ == "__main__":
    command()
