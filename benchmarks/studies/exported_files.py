"""A network's exports beside the network itself, on the embedded sample or another dataset: top-1 and images a second.

    python benchmarks/studies/exported_files.py --weights runs/sample

Each file that `engine/export.py` writes (ONNX in fp32, folded, fp16, int8) is run by onnxruntime and OpenVINO on the CPU; eager
PyTorch, plain and with normalisations folded, stands beside them. All take the same uint8 images, as many at a time.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
from torch import Tensor

import engine.export
from benchmarks.measuring import Subject, alternate, repeated
from benchmarks.reporting import Result, Study
from engine.evaluation.settings import settings_of
from engine.inference.exported_files import runtimes
from engine.inference.exported_graph import ExportedGraph
from inception import Network, network_from_weights
from inception.speed.folding import fold_batch_norm
from pipelines import build_loader, open_dataset, sample_path

FORMS = {
    "fp32": [],
    "fp32, folded": ["--fold_batch_norm"],
    "fp16, folded": ["--fold_batch_norm", "--precision", "fp16"],
    "int8": ["--precision", "int8"],
}

study = Study("exported_files", __doc__, batch_size=16, windows=7, seconds=1.0)
study.option("--weights", required=True, help="a weights file or a run directory")
study.option("--data.path", dest="path", default="", help="dataset (default: the embedded sample)")


@study
def main(options: Any, result: Result) -> None:
    network, read = network_from_weights(options.weights)
    settings, _ = settings_of(network.eval(), read.metadata)
    dataset = open_dataset(options.path or sample_path(), "val", classes=read.metadata.get("classes"), progress=False)
    plan, shape = settings.plan(len(dataset), options.batch_size), {"resolution": settings.resolution}
    with build_loader(dataset, plan, "native", batch_size=options.batch_size, **shape) as loader:
        batches = [(batch.images.clone(), batch.labels) for batch in loader]
    with TemporaryDirectory() as folder:
        runs = contestants(network, settings.resolution, options, Path(folder))
        answers = {name: torch.cat([run(images).argmax(1) for images, _ in batches]) for name, run in runs.items()}
        labels = torch.cat([labels for _, labels in batches])
        first = next(iter(answers.values()))
        for name, guesses in answers.items():
            result.add({"what": name}, "top-1, %", 100 * float((guesses == labels).double().mean()))
            result.add({"what": name}, f"answers as eager's, of {len(labels)}", int((guesses == first).sum()))
        images = batches[0][0]
        subjects: dict[str, Subject] = {
            name: repeated(partial(run, images), len(images), seconds=options.seconds) for name, run in runs.items()
        }
        measured = alternate(subjects, windows=options.windows)
    result.add_each({}, "what", "images/s", measured)
    result.note(f"{options.batch_size} uint8 images at a time, {torch.get_num_threads()} threads, CPU only.")


def contestants(network: Network, size: int, options: Any, folder: Path) -> dict[str, Callable[[Tensor], Tensor]]:
    """What classifies uint8 images of `size` pixels a side, by name; eager PyTorch first."""
    runs: dict[str, Callable[[Tensor], Tensor]] = {}
    for name, eager in (("PyTorch, eager", network), ("PyTorch, eager, folded", fold_batch_norm(network))):
        graph = ExportedGraph(eager.to(memory_format=torch.channels_last), size, pixels=True).eval()
        runs[name] = torch.inference_mode()(graph)
    for form, given in FORMS.items():
        file = folder / f"{form.replace(', ', '-')}.onnx"
        data = ["--data.path", options.path] if options.path and form == "int8" else []
        common = ["--weights", options.weights, "--format", "onnx", "--input", "uint8", "--output", str(file)]
        engine.export.main([*common, *given, *data])
        runs |= {f"{runtime}, {form}": run for runtime, run in runtimes(file).items()}
    return runs


if __name__ == "__main__":
    study.start()
