"""Trained weights as a file for other programs:
`python engine/export.py --weights FILE --format onnx|torch_export|safetensors|state_dict --output FILE`, or `--to hf:FOLDER`.

ONNX and torch.export files are run once and compared with the network before the program says that they are there.
"""

import argparse
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

# The repository root instead of this script's own folder: modules are found as engine.*, from any working directory.
_here = Path(__file__).resolve().parent
sys.path[:] = [str(_here.parent), *(entry for entry in sys.path if Path(entry).resolve() != _here)]

import torch

from engine.config.options import ConfigError
from engine.evaluation.settings import KEY, add_options, check_options, given_options, settings_of
from engine.faults.errors import TrainingFailed
from engine.faults.exit_status import DONE, run_entry_point
from engine.inference.exported_files import SUFFIXES, difference, export_onnx, export_program, written_whole
from engine.inference.hub_folder import HUB, write_folder
from inception import Network, export_state, network_from_weights, save_weights
from inception.speed.folding import fold_batch_norm
from pipelines.support.entry_point import Parser

# Other libraries add up in another order; an error in the graph is larger by orders of magnitude.
TOLERANCE = 1e-3


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
    add_options(parser, "--resolution")
    parser.add_argument(
        "--fold_batch_norm", action="store_true", help="normalisations become part of the convolutions: faster"
    )
    parser.add_argument(
        "--layout", choices=["torchvision", "timm"], help="whose names the tensors get (default: this project's)"
    )
    options = parser.parse_args(arguments)
    check_options(options, "resolution")
    if options.to:
        if options.format or options.output or not re.fullmatch("hf:.+", options.to):
            raise ConfigError("--to takes hf:FOLDER, and no --format or --output beside it")
        options.format, options.output = HUB, Path(options.to.removeprefix("hf:")).expanduser()
    elif not (options.format and options.output):
        raise ConfigError("what is to be written where? Give --format and --output, or --to hf:FOLDER")
    graph, suffix = options.format in ("onnx", "torch_export"), SUFFIXES.get(options.format, "")
    if suffix and options.output.suffix != suffix:
        raise ConfigError(f"a file of format {options.format} must be named *{suffix}, not {options.output.name}")
    if options.fold_batch_norm and not graph:
        raise ConfigError(f"--fold_batch_norm is for onnx and torch_export; {options.format} keeps trainable weights")
    if options.resolution and not graph:
        raise ConfigError(f"--resolution is for onnx and torch_export; weights in {options.format} fit any size")
    if options.layout and options.format == HUB:
        raise ConfigError("--layout is for safetensors and state_dict; timm loads its own names from the hub")
    if options.layout and graph:
        raise ConfigError(f"--layout is for safetensors and state_dict; {options.format} has no names of tensors")
    return options


def main(arguments: Sequence[str]) -> int:
    """Exports as the command line says and prints one line; returns the exit status."""
    options = parse(arguments)
    network, weights = network_from_weights(options.weights)
    network.eval()
    settings, source = settings_of(network, weights.metadata, weights.assumed, **given_options(options))
    graph = options.format in ("onnx", "torch_export")
    size = settings.resolution if graph else network.input_size
    metadata = {**network.metadata(), "input_size": size, KEY: settings.to_dict()}
    names = ("classes", "held_out", "published")
    metadata |= {name: weights.metadata[name] for name in names if name in weights.metadata}
    try:
        if options.format == HUB:
            note = write_folder(network, settings, metadata, options.output)
        elif graph:
            note = write_graph(network, metadata, options)
        else:
            note = write_weights(network, metadata, options)
    except OSError as error:
        raise ConfigError(f"cannot write {options.output}: {error.strerror}") from None
    print(
        f"{network.name}: wrote {options.format} to {options.output} ({note}); to be shown images of {settings} ({source})"
    )
    return DONE


def write_graph(network: Network, metadata: Mapping[str, Any], options: argparse.Namespace) -> str:
    """Writes ONNX or torch.export, runs it against the network, and returns what was found, in words.

    The file takes its name, and the place of one that was there, only after that.
    """
    size = metadata["input_size"]
    written = fold_batch_norm(network) if options.fold_batch_norm else network
    with written_whole(options.output) as temporary:
        (export_onnx if options.format == "onnx" else export_program)(written, size, metadata, temporary)
        error = difference(network, temporary, size)
        if not error <= TOLERANCE:
            found = (
                "gives logits that are not finite" if math.isnan(error) else f"differs by {error:.1e} from PyTorch's"
            )
            kept = f"{options.output} is as it was" if options.output.exists() else "nothing was written"
            raise TrainingFailed(f"the exported network {found}; {kept}")
    return f"{size} x {size} pixels, any batch, relative error {error:.1e} against PyTorch"


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
