"""Networks as files that run without this project: ONNX and torch.export, with what they know about images inside.

The function that is exported takes normalised float32 images (N, channels, size, size), any N, and gives logits
(N, classes). The metadata, JSON under the name `inception`, is that of weights files: classes, size, mean, std, crop.
"""

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.config.options import ConfigError
from inception import Network

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "safetensors": ".safetensors", "state_dict": ".pth"}
METADATA = "inception"
_EXTRA_FILE = f"{METADATA}.json"
_NEEDS_EXTRA = "ONNX needs the packages of the extra `export`: pip install -e '.[export]'"
Function = Callable[[Tensor], Tensor]


def export_onnx(network: Network, size: int, metadata: Mapping[str, Any], file: Path) -> None:
    """Writes `network` as ONNX for images of `size` pixels into `file`. Raises ConfigError without the packages for it."""
    try:
        import onnx
        import onnxscript  # noqa: F401 (what torch exports with)
    except ImportError:
        raise ConfigError(_NEEDS_EXTRA) from None
    with silent():
        torch.onnx.export(
            network.eval(),
            (example(network, size),),
            file,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        model = onnx.load(file)
        onnx.helper.set_model_props(model, {METADATA: json.dumps(dict(metadata))})
        onnx.checker.check_model(model)
        onnx.save(model, file)


def open_onnx(file: Path, device: torch.device) -> tuple[Function, dict[str, Any]]:
    """The function in an ONNX file, run by onnxruntime, and its metadata."""
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError(_NEEDS_EXTRA) from None
    wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()] + ["CPUExecutionProvider"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(file.read_bytes(), options, providers)
    except Exception as error:  # onnxruntime has a class for every status, without a common base
        raise ConfigError(f"{file} is no ONNX file that can be run ({str(error).splitlines()[0]})") from None
    stored = session.get_modelmeta().custom_metadata_map.get(METADATA)
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: images.contiguous().numpy()})[0])

    return run, parsed(file, stored)


def export_program(network: Network, size: int, metadata: Mapping[str, Any], file: Path) -> None:
    """Writes `network` as a torch.export program for images of `size` pixels into `file`."""
    with torch.no_grad(), silent():
        program = torch.export.export(
            network.eval(), (example(network, size),), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
        with file.open("wb") as opened:  # not by its name, which need not be UTF-8
            torch.export.save(program, opened, extra_files={_EXTRA_FILE: json.dumps(dict(metadata))})


def open_program(file: Path, device: torch.device) -> tuple[Function, dict[str, Any]]:
    """The function in a torch.export file, and its metadata. Opening it runs code that the file brings along."""
    extra = {_EXTRA_FILE: ""}
    try:
        with file.open("rb") as opened:
            program = torch.export.load(opened, extra_files=extra)
    except Exception as error:  # anything, for a file that is no archive or one of another version
        raise ConfigError(f"{file} is no torch.export file that can be run ({str(error).splitlines()[0]})") from None
    module = program.module().to(device)

    def run(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return module(images.to(device)).float().cpu()

    return run, parsed(file, extra[_EXTRA_FILE])


def open_exported(file: Path, device: torch.device) -> tuple[Function, dict[str, Any]]:
    """The function (normalised float32 images -> logits, both on the host) in an exported file, and its metadata."""
    if not file.is_file():
        raise ConfigError(f"there is no exported file {file}")
    return (open_onnx if file.suffix == SUFFIXES["onnx"] else open_program)(file, device)


def difference(network: Network, file: Path, size: int) -> float:
    """How far the logits of an exported file are from the network's own: the relative error for batches of 1 and 3, or
    NaN when either has logits that are not finite."""
    run, _ = open_exported(file, torch.device("cpu"))
    images = torch.randn(3, network.in_channels, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network.eval()(images)
    found = (run(images), torch.cat([run(images[:1]), run(images[1:])]))
    return float(torch.stack([(logits - expected).norm() / expected.norm() for logits in found]).max())


def example(network: Network, size: int) -> Tensor:
    """Images to trace with. Two of them: a batch of one would be taken for a constant."""
    return torch.zeros(2, network.in_channels, size, size)


def parsed(file: Path, stored: str | bytes | None) -> dict[str, Any]:
    """The metadata in an exported file. Raises ConfigError when it has none, so was not written here."""
    if not stored:
        raise ConfigError(f"{file} does not say how images are prepared for it; export it with engine/export.py")
    return json.loads(stored)


@contextmanager
def written_whole(file: Path) -> Iterator[Path]:
    """A temporary file beside `file` that takes its name when the block ends well, and goes when it does not."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{os.getpid()}.{file.name}")
    try:
        yield temporary
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def silent() -> Iterator[None]:
    """Without the exporters' notes and warnings about their own inner workings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)
