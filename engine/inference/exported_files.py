"""Networks as files that run without this project: ONNX and torch.export, with what they know about images inside.

What is exported is an `ExportedGraph`: it takes images (N, channels, size, size), normalised float32 or uint8, and gives logits
(N, classes) in float32. The metadata, JSON under the name `inception`, is that of weights files (classes, size, mean, std, crop)
and what the graph takes: `takes`, the dtype of its images, and `precision`, in which it computes.
"""

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.config.options import ConfigError
from engine.inference.exported_graph import ExportedGraph

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "safetensors": ".safetensors", "state_dict": ".pth"}
METADATA = "inception"
_EXTRA_FILE = f"{METADATA}.json"
_NEEDS_EXTRA = "ONNX needs the packages of the extra `export`: pip install -e '.[export]'"
Function = Callable[[Tensor], Tensor]


def export_onnx(graph: ExportedGraph, metadata: Mapping[str, Any], file: Path, opset: int | None = None) -> None:
    """Writes `graph` as ONNX into `file`, in the operators of that `opset` (the exporter's own by default). Raises ConfigError
    without the packages for it, and for an opset that the exporter cannot write."""
    try:
        import onnx
        import onnxscript  # noqa: F401 (what torch exports with)
    except ImportError:
        raise ConfigError(_NEEDS_EXTRA) from None
    with silent():
        torch.onnx.export(
            graph.eval(),
            (graph.example(),),
            file,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=graph.dynamic_shapes(),
            opset_version=opset,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    written = next(each.version for each in onnx.load(file).opset_import if not each.domain)
    if opset is not None and written != opset:
        raise ConfigError(f"torch's exporter does not write opset {opset} (it wrote {written}): choose another --opset")
    set_metadata(file, metadata)


def set_metadata(file: Path, metadata: Mapping[str, Any]) -> None:
    """Puts the metadata into an ONNX file, which is checked."""
    import onnx

    model = onnx.load(file)
    onnx.helper.set_model_props(model, {METADATA: json.dumps(dict(metadata))})
    onnx.checker.check_model(model)
    onnx.save(model, file)


def nodes_before_convolutions(file: Path) -> list[str]:
    """The names of an ONNX file's nodes that come before the first convolution, in order."""
    import onnx

    return [node.name for node in takewhile(lambda node: node.op_type != "Conv", onnx.load(file).graph.node)]


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


@cache
def _openvino_core() -> Any:
    """OpenVINO, once in a process: each core of it puts a stack for signals in place of the one that it finds, and that one back
    when it goes. Two that go in the order in which they came leave the first one's, which is no more: the next signal kills."""
    import openvino

    return openvino.Core()


def open_openvino(file: Path) -> Function | None:
    """The function in an ONNX file, run by OpenVINO on the CPU, None where that is not installed. Raises RuntimeError, of its
    own, for a file that it cannot run."""
    try:
        core = _openvino_core()
    except ImportError:
        return None
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = core.compile_model(core.read_model(file.read_bytes()), "CPU", hints)
    return lambda images: torch.from_numpy(compiled(images.contiguous().numpy())[0].copy())


def export_program(graph: ExportedGraph, metadata: Mapping[str, Any], file: Path) -> None:
    """Writes `graph` as a torch.export program into `file`."""
    with torch.no_grad(), silent():
        program = torch.export.export(graph.eval(), (graph.example(),), dynamic_shapes=graph.dynamic_shapes())
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
    """The function (images as the metadata's `takes` says -> logits, both on the host) in an exported file, and its metadata."""
    if not file.is_file():
        raise ConfigError(f"there is no exported file {file}")
    return (open_onnx if file.suffix == SUFFIXES["onnx"] else open_program)(file, device)


def runtimes(file: Path) -> dict[str, Function]:
    """What runs an exported file here, by name: torch, or onnxruntime and OpenVINO where that is installed."""
    run, _ = open_exported(file, torch.device("cpu"))
    if file.suffix != SUFFIXES["onnx"]:
        return {"torch": run}
    other = open_openvino(file)
    return {"onnxruntime": run, **({"OpenVINO": other} if other else {})}


def differences(network: torch.nn.Module, file: Path, graph: ExportedGraph) -> dict[str, float]:
    """How far the logits of an exported file are from those of `network`, which `graph` was made of, in each of its runtimes: the
    relative error for batches of 1 and 3, or of its own size, or NaN when either has logits that are not finite."""
    images = graph.random_images()
    with torch.no_grad():
        expected = network.eval()(graph.normalised(images))
    found = {}
    for name, run in runtimes(file).items():
        logits = [run(images)] if graph.batch else [run(images), torch.cat([run(images[:1]), run(images[1:])])]
        found[name] = float(torch.stack([(each - expected).norm() / expected.norm() for each in logits]).max())
    return found


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
    loggers = [logging.getLogger(name) for name in (None, "torch.onnx", "onnxscript", "onnx_ir")]
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
