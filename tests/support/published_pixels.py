"""What our evaluation shows to published weights, beside what their publishers' own transforms show, and the logits of both.

    python tests/support/published_pixels.py

For every entry of the family that the installed torchvision and timm list: the peak signal-to-noise ratio of the pixels of
photographs, ours (the compiled decoder, as `engine/evaluate.py` loads them) against those of `weights.transforms()` or timm's
`create_transform`; and with random weights in the publisher's network, converted to ours, how far the logits differ.

Random networks amplify: a change of pixels that nobody sees moves the first of a thousand logits that lie close together. So the
weights are random but well conditioned: normalisations shift by about one deviation, so that most of ReLU's inputs pass and depth
adds little to a difference; batch statistics are the photographs'; and the classifier has an output for each photograph (see
`separate`). What their pixels allow is measured too: white noise of the same size in the publisher's own pixels,
through the publisher's own network.
"""

import io
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

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
        same = Normalise(*normalisation(transform))(ours)
        expected, of_noise, of_ours, got = logits(network, settings, theirs(), ours, wanted, same)
        for what, found_here, reference in (
            ("each of its own pixels", got, expected),
            ("theirs, of their pixels with as much noise", of_noise, expected),
            ("both of ours", got, of_ours),
        ):
            difference = float((found_here - reference).norm() / reference.norm())
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


def normalisation(transform: Any) -> tuple[list[float], list[float]]:
    """A publisher's mean and deviation."""
    normal = transform if hasattr(transform, "mean") else transform.transforms[-1]
    return [float(value) for value in normal.mean], [float(value) for value in normal.std]


def pixels_of(images: Tensor, transform: Any) -> np.ndarray:
    """float64 (N, 3, H, W), 0 to 255, of what a transform has normalised."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1).double() for values in normalisation(transform))
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The logits of their network for their pixels, `wanted`, for those with noise, and for ours as they normalise them, `same`;
    and of ours for ours. Both have the same random weights, of which see above."""
    generator = torch.Generator().manual_seed(0)
    size = (same - wanted).square().mean((1, 2, 3), keepdim=True).sqrt()
    noisy = wanted + size * torch.randn(wanted.shape, generator=generator)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.uniform_(module.bias, 0.5, 1.5, generator=generator)
    with TemporaryDirectory() as folder, torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.train()(wanted[: 2 * at_once])
        separate(theirs.eval(), wanted.split(at_once))
        torch.save(theirs.state_dict(), Path(folder) / "random.pth")
        load_weights(network, Path(folder) / "random.pth")
        normalise = Normalise(settings.mean, settings.std)
        found = [torch.cat([theirs(part) for part in images.split(at_once)]) for images in (wanted, noisy, same)]
        found.append(torch.cat([network.eval()(normalise(part)) for part in ours.split(at_once)]))
    expected, of_noise, of_ours, got = found
    return expected, of_noise, of_ours, got


def separate(network: nn.Module, images: Sequence[Tensor]) -> None:
    """Makes the classifier tell these images apart, as that of a trained network tells classes apart: the weights of an output
    are the features of an image less the mean of all, of length one, and those of the outputs left over are random."""
    classifier: nn.Linear = network.get_classifier() if hasattr(network, "get_classifier") else network.fc  # type: ignore
    features: list[Tensor] = []
    seen = classifier.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    for part in images:
        network(part)
    seen.remove()
    every = torch.cat(features)
    directions = torch.randn(classifier.weight.shape, generator=torch.Generator().manual_seed(1))
    directions[: len(every)] = every - every.mean(0)
    classifier.weight.copy_(nn.functional.normalize(directions))
    classifier.bias.copy_(-classifier.weight @ every.mean(0))


if __name__ == "__main__":
    run_entry_point(main)
