"""What our evaluation shows to published weights, beside what their publishers' own transforms show, and the logits of both.

    python benchmarks/studies/published_pixels.py

For every entry of the family that the installed torchvision and timm list: the peak signal-to-noise ratio of the pixels of
photographs, ours (the compiled decoder, as `engine/evaluate.py` loads them) against those of `weights.transforms()` or timm's
`create_transform`; and with random weights in the publisher's network, converted to ours, how far the logits differ.
"""

import io
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.measuring import BenchmarkError, Parser
from benchmarks.reporting.results import Result
from engine.evaluation.settings import Settings, settings_of
from engine.faults.exit_status import DONE, run_entry_point
from engine.graphs.normalisation import Normalise
from inception import Network, create_model, list_pretrained, load_weights
from inception.weights.published import Published, find_published
from pipelines import build_loader, open_dataset
from pipelines.tools.parity import photos


def main(arguments: Sequence[str]) -> int:
    parser = Parser("Pixels and logits of published weights beside their publishers'.", images=48, quality=90)
    parser.add_argument("--weights", nargs="+", default=list_pretrained(), metavar="NAME", help="which entries")
    parser.add_argument("--no-logits", action="store_true", help="compare the pixels alone")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    result = Result("published_pixels", options)
    with TemporaryDirectory() as folder:
        files = write_photos(Path(folder) / "val/photo", options.images, options.quality)
        for name in options.weights:
            compare(find_published(name), Path(folder), files, not options.no_logits, result)
    result.note(
        f"{options.images} photographs of 300 to 500 pixels a side, JPEGs of quality {options.quality}. Differences are "
        "relative to the norm of the publisher's logits."
    )
    result.finish()
    return DONE


def write_photos(folder: Path, count: int, quality: int) -> list[Path]:
    """The photographs as JPEGs, in the order of their names."""
    folder.mkdir(parents=True)
    files = [folder / f"{number:03d}.jpg" for number in range(count)]
    for file, photo in zip(files, photos(count)):
        photo.save(file, quality=quality)
    return files


def compare(entry: Published, folder: Path, files: Sequence[Path], with_logits: bool, result: Result) -> None:
    """Adds an entry's rows."""
    network = create_model(entry.network, auxiliary=False)
    settings, _ = settings_of(network, entry.metadata)
    transform, theirs = publishers(entry)
    wanted = torch.stack([transform(Image.open(io.BytesIO(file.read_bytes())).convert("RGB")) for file in files])
    ours = shown(folder, settings)
    found = decibels(ours, pixels_of(wanted, transform))
    case = {"weights": entry.name, "shown": f"{settings.interpolation}, {settings.resize} to {settings.resolution}"}
    result.add(case, "dB, median", float(np.median(found)))
    result.add(case, "dB, worst", min(found))
    if with_logits:
        normal = normalisation(transform)
        same = Normalise(normal.mean, normal.std)(ours)
        expected, of_ours, got = logits(network, settings, theirs(), ours, wanted, same)
        for what, reference in (("each of its own pixels", expected), ("both of ours", of_ours)):
            difference = float((got - reference).norm() / reference.norm())
            result.add(case, f"relative difference of logits, {what}", difference, higher_is_better=False)
        result.add(case, f"top-1 alike, of {len(files)}", int((got.argmax(1) == expected.argmax(1)).sum()))


def publishers(entry: Published) -> tuple[Any, Callable[[], nn.Module]]:
    """The publisher's transform of an image that Pillow read, and what makes its network, with random weights."""
    source, _, rest = entry.name.partition(":")
    if source == "torchvision":
        import torchvision

        weights = torchvision.models.get_model_weights(entry.network)[rest.partition(".")[2]]
        make = getattr(torchvision.models, entry.network)
        return weights.transforms(), lambda: make(transform_input=True, aux_logits=False, init_weights=True)
    if source == "timm":
        import timm
        from timm.data import create_transform, resolve_data_config

        config = timm.get_pretrained_cfg(rest).to_dict()
        return create_transform(**resolve_data_config(pretrained_cfg=config)), lambda: timm.create_model(rest)
    raise BenchmarkError(f"{entry.name} is neither torchvision's nor timm's")


def normalisation(transform: Any) -> Any:
    """What has a publisher's `mean` and `std`."""
    return transform if hasattr(transform, "mean") else transform.transforms[-1]


def pixels_of(images: Tensor, transform: Any) -> np.ndarray:
    """float64 (N, 3, H, W), 0 to 255, of what a transform has normalised."""
    normal = normalisation(transform)
    mean, std = (torch.as_tensor(values).view(1, 3, 1, 1).double() for values in (normal.mean, normal.std))
    return (255 * (images.double() * std + mean)).numpy()


def shown(folder: Path, settings: Settings) -> Tensor:
    """uint8 (N, 3, H, W): the photographs as evaluation loads them."""
    dataset = open_dataset(folder, "val", exif=settings.exif, progress=False)
    count = len(dataset)
    with build_loader(
        dataset, settings.plan(count, count), "native", batch_size=count, resolution=settings.resolution, workers=1
    ) as loader:
        (batch,) = loader
    return batch.images


def decibels(ours: Tensor, theirs: np.ndarray) -> list[float]:
    """The peak signal-to-noise ratio of each image [dB], 99 for equal pixels."""
    errors = np.mean((ours.numpy() - theirs) ** 2, axis=(1, 2, 3))
    return [float(10 * np.log10(255**2 / error)) if error > 1e-6 else 99.0 for error in errors]


def logits(
    network: Network,
    settings: Settings,
    theirs: nn.Module,
    ours: Tensor,
    wanted: Tensor,
    same: Tensor,
    at_once: int = 8,
) -> tuple[Tensor, Tensor, Tensor]:
    """The logits of their network for their pixels, `wanted`, and for ours as they normalise them, `same`; and of ours for ours.
    Both have the same random weights, and the batch statistics of the first photographs, so that images differ."""
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with TemporaryDirectory() as folder, torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.train()(wanted[:at_once])
        torch.save(theirs.eval().state_dict(), Path(folder) / "random.pth")
        load_weights(network, Path(folder) / "random.pth")
        normalise = Normalise(settings.mean, settings.std)
        expected, of_ours = ([theirs(part) for part in images.split(at_once)] for images in (wanted, same))
        got = [network.eval()(normalise(part)) for part in ours.split(at_once)]
    return torch.cat(expected), torch.cat(of_ours), torch.cat(got)


if __name__ == "__main__":
    run_entry_point(main)
