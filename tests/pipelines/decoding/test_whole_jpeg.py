"""The decoders of whole JPEGs: the same pixels from each library, the same refusals, and what is said when none is there."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import DataError, EvalPlan, build_loader, open_dataset
from pipelines.datasets.image_headers import SLOW, probe_bytes
from pipelines.decoding import whole_jpeg as decoders
from pipelines.decoding.decode import decode

ROOT = Path(__file__).resolve().parents[3]
INSTALLED = {"torchvision": decoders._torchvision, "torchcodec": decoders._torchcodec}


def tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


@pytest.fixture
def leave(monkeypatch):
    """``leave(name)``: of the libraries only this one can be imported, or none."""

    def arrange(name: str | None) -> None:
        for other, module in {"torchvision": "torchvision.io", "torchcodec": "torchcodec.decoders"}.items():
            if other != name:
                monkeypatch.setitem(sys.modules, module, None)
        decoders.whole_jpeg.cache_clear()

    yield arrange
    decoders.whole_jpeg.cache_clear()


@pytest.fixture(params=INSTALLED)
def only(request, leave) -> str:
    leave(request.param)
    return request.param


def test_both_give_the_same_pixels_as_stored(odd_images):
    first, second = (load() for load in INSTALLED.values())
    compared = 0
    for name, data in odd_images.items():
        if not probe_bytes(data).flags & SLOW:
            assert torch.equal(first(tensor(data)), second(tensor(data))), name
            compared += 1
    assert compared >= 14


def test_each_alone_decodes_upright(only, odd_images):
    assert decoders.whole_jpeg().name == only
    plain = np.asarray(Image.open(io.BytesIO(odd_images["plain"])), int)
    for name, data in odd_images.items():
        pixels = decode(data).permute(1, 2, 0).numpy().astype(int)
        assert pixels.shape == plain.shape, name
        if name.startswith("rotated"):  # compressed another way round, so not to the last digit
            assert np.abs(pixels - plain).mean() < 4, name


def test_each_alone_refuses_what_cannot_be_read(only, bad_images):
    for name, data in bad_images.items():
        with pytest.raises(DataError):
            decode(data)
        if name != "empty":
            with pytest.raises((RuntimeError, ValueError)):
                decoders.whole_jpeg().decode(tensor(data))


def test_exif_is_hidden_and_nothing_else_is_touched(odd_images):
    plain, turned = tensor(odd_images["plain"]), tensor(odd_images["rotated6"])
    assert decoders.without_exif(plain) is plain
    hidden = decoders.without_exif(turned)
    assert (hidden != turned).sum() == 1
    assert torch.equal(tensor(odd_images["rotated6"]), turned)


def test_without_either_pillow_decodes_and_that_is_said(odd_images, make_folder, leave, monkeypatch, capfd):
    leave(None)
    assert decode(odd_images["plain"]).shape[0] == 3
    assert "torchvision is installed but does not decode: whole images by Pillow" in capfd.readouterr().err
    monkeypatch.setattr(decoders, "find_spec", lambda name: None)
    dataset = open_dataset(make_folder({"val/a/1.jpg": odd_images["plain"]}), "val", progress=False)
    with build_loader(dataset, EvalPlan(1, 1), "native", batch_size=1, resolution=32) as loader:
        assert "whole images by Pillow, which is slower, for want of torchvision or torchcodec" in loader.reason
        assert len(next(iter(loader)).images) == 1


def test_a_run_of_plain_photographs_imports_neither(run_command, make_folder, odd_images):
    """Either takes as long to import as torch."""
    code = (
        "import sys\n"
        "from pipelines import EvalPlan, build_loader, open_dataset\n"
        "dataset = open_dataset(sys.argv[1], 'val', progress=False)\n"
        "with build_loader(dataset, EvalPlan(1, 1), 'native', batch_size=1, resolution=32) as loader:\n"
        "    print(len(list(loader)), loader.reason)\n"
        "print({'torchvision', 'torchcodec'} & set(sys.modules))\n"
    )
    done = run_command([sys.executable, "-c", code, make_folder({"val/a/1.jpg": odd_images["plain"]})], cwd=ROOT)
    assert done.stdout == "1 asked for; whole images by torchvision\nset()\n", done.stderr
