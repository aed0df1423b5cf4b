"""The ffcv backend: pixels, positions, sizes and bad samples as on every backend, and nothing left behind.

FFCV's decoder is compiled once a process, which takes seconds: in the first test that loads.
"""

import gc
import io
import itertools
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import ffcv.libffcv
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from pipelines import DataError, EvalPlan, TrainPlan, build_loader, open_dataset, sample_path
from pipelines.decoding import fast_decode
from pipelines.loading.ffcv_decode import IS_JPEG, IS_RAW, JOB, Decoder, carry_out
from pipelines.preparing.beton_writer import write_beton
from processes import growth_over_epochs, open_files, own
from waiting import IN_A_THREAD

ROOT = __file__.rpartition("/tests/")[0]
CACHES = ["os", "process"]


def load(dataset, plan, **options):
    return build_loader(dataset, plan, "ffcv", **{"batch_size": 16, "resolution": 32, "workers": 3} | options)


def as_beton(folder: Path, split: str, home: Path) -> Path:
    write_beton(partial(open_dataset, folder, split, progress=False), home / f"{split}.beton")
    return home


def names(batches) -> list[int]:
    return [index for batch in batches for index in batch.indices.tolist()]


def same(first, second) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and torch.equal(a.indices, b.indices)
        for a, b in zip(first, second)
    )


def psnr(first, second) -> float:
    error = np.mean((np.asarray(first, np.float64) - np.asarray(second, np.float64)) ** 2)
    return 10 * np.log10(255**2 / max(error, 1e-3))


@pytest.fixture(scope="module")
def val(tmp_path_factory):
    """The embedded dataset's validation split."""
    return open_dataset(as_beton(Path(sample_path()), "val", tmp_path_factory.mktemp("val")), "val", progress=False)


@pytest.fixture(scope="module")
def photo_beton(photo_set, tmp_path_factory):
    """Photos, and one in every odd form that images take."""
    return open_dataset(as_beton(photo_set, "train", tmp_path_factory.mktemp("photos")), "train", progress=False)


def reference(name: str, box, flip: bool, size: int) -> np.ndarray:
    """Pillow's crop and bilinear resize of an image turned upright."""
    left, top, width, height = box.tolist()
    image = ImageOps.exif_transpose(Image.open(name)).convert("RGB").crop((left, top, left + width, top + height))
    image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(ImageOps.mirror(image) if flip else image)


@pytest.mark.parametrize(
    ("kind", "size", "cache", "with_c"),
    [
        ("train", 299, "os", True),
        ("train", 299, "process", False),
        ("train", 128, "process", True),
        ("eval", 224, "os", True),
    ],
)
def test_pixels_are_pillows(photo_set, photo_beton, monkeypatch, kind, size, cache, with_c):
    if not with_c:
        monkeypatch.setattr(fast_decode, "library", lambda: (None, "no C compiler"))
    files = open_dataset(photo_set, "train", progress=False)
    count = len(files)
    plan = TrainPlan(count, 16, seed=1, drop_last=False) if kind == "train" else EvalPlan(count, 16)
    ratios = {}
    with load(photo_beton, plan, resolution=size, settings={"cache": cache}) as loader:
        for batch in loader:
            indices = batch.indices.numpy()
            boxes, flips = plan.boxes(0, indices, files.sizes(indices)), plan.flips(0, indices)
            assert batch.labels.tolist() == files.labels(indices).tolist()
            for slot, index in enumerate(indices.tolist()):
                wanted = reference(files.name(index), boxes[slot], flips[slot], size)
                ratios[index] = psnr(batch.images[slot].permute(1, 2, 0), wanted)
    assert len(ratios) == count
    print(f"\n{kind} {size}: median {np.median(list(ratios.values())):.1f} dB, worst {min(ratios.values()):.1f} dB")
    assert np.median(list(ratios.values())) >= 50
    assert min(ratios.values()) >= 40, files.name(min(ratios, key=lambda index: ratios[index]))


def test_pixels_are_nearer_to_pillows_than_stock_ffcvs(photo_set, photo_beton):
    files = open_dataset(photo_set, "train", progress=False)
    plan, size = TrainPlan(len(files), 16, seed=2, drop_last=False), 299
    ours, stock = [], []
    with load(photo_beton, plan, resolution=size) as loader:
        for batch in loader:
            for index, image in zip(batch.indices.tolist(), batch.images):
                if "/a/" not in files.name(index):
                    continue
                at = np.array([index])
                box, flip = plan.boxes(0, at, files.sizes(at))[0], bool(plan.flips(0, at)[0])
                wanted = reference(files.name(index), box, flip, size)
                ours.append(psnr(image.permute(1, 2, 0), wanted))
                stock.append(psnr(stock_pixels(photo_beton.read(index), files.sizes(at)[0], box, flip, size), wanted))
    print(f"\nours {np.median(ours):.1f} dB, stock FFCV {np.median(stock):.1f} dB, of {len(ours)}")
    assert len(ours) == 32
    assert all(mine >= theirs for mine, theirs in zip(ours, stock))


def stock_pixels(data: np.ndarray, size, box, flip: bool, wanted: int) -> np.ndarray:
    """What FFCV's RandomResizedCropRGBImageDecoder does with a JPEG and a crop."""
    (width, height), (left, top, box_width, box_height) = size.tolist(), box.tolist()
    pixels, out = np.empty((height, width, 3), np.uint8), np.empty((wanted, wanted, 3), np.uint8)
    ffcv.libffcv.imdecode(np.array(data), pixels, height, width, height, width)
    ffcv.libffcv.resize_crop(pixels, top, top + box_height, left, left + box_width, out)
    return out[:, ::-1] if flip else out


@pytest.mark.parametrize(
    "plan", [EvalPlan(1000, 96), TrainPlan(1000, 96, seed=2, drop_last=False)], ids=["eval", "train"]
)
def test_an_epoch_names_each_sample_once_on_any_number_of_ranks(val, plan):
    pixels: dict[int, torch.Tensor] = {}
    for ranks in (1, 2, 3):
        seen = []
        for rank in range(ranks):
            with load(val, plan, rank=rank, world_size=ranks) as loader:
                batches = list(loader)
                assert len(batches) == len(loader)
            for batch in batches:
                seen += batch.indices.tolist()
                for index, image in zip(batch.indices.tolist(), batch.images):
                    assert torch.equal(pixels.setdefault(index, image), image)
        assert sorted(seen) == list(range(1000))


@pytest.mark.parametrize("cache", CACHES)
def test_a_resumed_loader_goes_on_with_identical_batches(val, cache):
    plan = TrainPlan(1000, 48, seed=5)
    with load(val, plan, settings={"cache": cache}) as loader:
        loader.set_epoch(3)
        whole = list(loader)
    for handed_out in (0, 1, 31, 59):
        with load(val, plan, settings={"cache": cache}) as loader:
            loader.set_epoch(3)
            list(itertools.islice(loader, handed_out))
            state = loader.state_dict()
        complete = handed_out // 3
        assert state == {"samples_seen": 3 * plan.samples + 48 * complete}
        with load(val, plan, workers=1, prefetch=1) as loader:
            loader.load_state_dict(state)
            assert same(list(loader), whole[3 * complete :])


def test_neither_a_new_epoch_nor_a_new_resolution_compiles_anything(val, monkeypatch):
    monkeypatch.setattr(fast_decode, "library", lambda: (None, "no C compiler"))  # the C is compiled once a machine
    plan = TrainPlan(1000, 16, seed=3)
    with load(val, plan, prefetch=3) as loader:
        list(itertools.islice(loader, 2))
        compiled = list(carry_out.signatures)
        loader.set_epoch(1)
        sizes, seen = [], []
        for number, batch in enumerate(itertools.islice(loader, 12)):
            sizes.append(batch.images.shape[-1])
            seen.append(batch)
            loader.resolution = 24 if 3 <= number < 8 else 40 if number >= 8 else 32
        assert sizes == [32] * 4 + [24] * 5 + [40] * 3
        assert names(seen) == plan.order(1, np.arange(12 * 16)).tolist()
        loader.set_epoch(2)
        list(itertools.islice(loader, 2))
        assert carry_out.signatures == compiled
        assert len(compiled) == 1


@pytest.fixture
def damaged(make_folder, odd_images, bad_images, tmp_path):
    """20 samples as a .beton: some that the index knows to be bad, some that only decoding finds out."""
    files = {f"train/a/{number:02d}.jpg": odd_images["plain"] for number in range(20)}
    files["train/a/03.jpg"] = files["train/a/10.jpg"] = bad_images["truncated"]
    (tmp_path / "beton").mkdir()
    home = as_beton(make_folder(files), "train", tmp_path / "beton")
    place = open_dataset(home, "train", progress=False).entries(np.array([4]))["place"][0]
    with (home / "train.beton").open("r+b") as file:
        file.seek(place)
        file.write(b"<html>")
    return open_dataset(home, "train", progress=False)


def test_a_bad_sample_is_named_or_replaced_as_on_the_native_backend(damaged):
    with pytest.raises(DataError, match=r"train\.beton:00000004: it is no image that can be read; repair it"):
        load(damaged, TrainPlan(20, 4))
    for plan in (TrainPlan(20, 6, seed=4, drop_last=False), EvalPlan(20, 6)):
        results = []
        for backend in ("ffcv", "native"):
            with build_loader(damaged, plan, backend, batch_size=6, resolution=32, on_error="skip") as loader:
                batches = list(loader)
                results.append((batches, sorted(loader.substitutions)))
        (ours, mine), (theirs, native) = results
        assert [re.search(r":0*(\d+)$", name)[1] for name, _ in mine] == ["3", "4", "10"]
        assert mine == native
        assert names(ours) == names(theirs)
        assert [batch.labels.tolist() for batch in ours] == [batch.labels.tolist() for batch in theirs]


def test_a_sample_that_fails_when_decoded_is_named(damaged, tmp_path):
    (tmp_path / "bad").write_text("train.beton:00000004\n")
    dataset = open_dataset(damaged.path, "train", quarantine=tmp_path / "bad", progress=False)
    with (
        load(dataset, EvalPlan(19, 19)) as loader,
        pytest.raises(DataError, match=r"train\.beton:00000003: it cannot be decoded: .*; repair it") as raised,
    ):
        list(loader)
    assert "\n" not in str(raised.value)


def job(**values) -> np.ndarray:
    one = np.zeros(1, JOB)
    for name, value in values.items():
        one[name] = value
    return one


def test_a_box_is_decoded_alone_and_its_pixels_are_those_of_the_whole(odd_images):
    decoder = Decoder()
    for name in ("plain", "gray", "progressive", "full_chroma", "half_chroma", "restarts", "wide_tables"):
        data = np.frombuffer(odd_images[name], np.uint8)
        width, height = Image.open(io.BytesIO(odd_images[name])).size
        # Bytes behind the end of a JPEG make the decoder take it whole.
        padded = np.concatenate([data, np.zeros(2, np.uint8)])
        for top, box_height in ((0, 1), (0, 17), (5, 64), (33, 100), (height - 40, 24), (0, height)):
            box = {"width": width, "height": height, "left": 7, "top": top, "box_width": 99, "box_height": box_height}
            results = []
            for encoded in (data, padded):
                out = np.zeros((1, 64, 64, 3), np.uint8)
                assert not decoder.run(-1, encoded.copy(), job(size=len(encoded), kind=IS_JPEG, **box), out)
                results.append(out)
            assert (results[0] == results[1]).all(), (name, top, box_height)


def test_damage_in_what_a_box_needs_is_never_taken_for_an_image(odd_images):
    decoder, data = Decoder(), np.frombuffer(odd_images["plain"], np.uint8)
    width, height = Image.open(io.BytesIO(odd_images["plain"])).size
    whole = job(size=len(data), width=width, height=height, box_width=width, box_height=height, kind=IS_JPEG)
    upper = whole.copy()
    upper["box_height"] = height // 2
    out = np.zeros((1, 32, 32, 3), np.uint8)
    broken = data.copy()
    broken[len(data) // 5 : len(data) // 5 + 2] = 0xFF, 0xD9  # ends the image too early
    assert decoder.run(-1, broken.copy(), whole, out) == [0]
    assert decoder.run(-1, broken.copy(), upper, out) == [0]
    for field, value in (("width", width + 1), ("height", height - 1), ("size", 200), ("size", 4), ("kind", 2)):
        other = whole.copy()
        other[field] = value
        assert decoder.run(-1, data.copy(), other, out) == [0], field
    assert decoder.run(-1, data.copy(), whole, out) == []


def test_any_box_is_resized_to_any_size_as_pillow_does():
    generator, decoder = np.random.default_rng(0), Decoder()
    image = np.asarray(Image.fromarray(generator.integers(0, 256, (9, 13, 3), np.uint8)).resize((157, 211)))
    image = np.clip(image + generator.integers(-40, 41, image.shape), 0, 255).astype(np.uint8)
    cases = [(0, 0, 157, 211, 1), (0, 0, 1, 1, 7), (156, 210, 1, 1, 1), (3, 0, 2, 211, 50), (0, 9, 157, 3, 3)]
    cases += [(10, 20, 64, 64, 64), (0, 0, 157, 211, 211), (0, 0, 157, 211, 157), (0, 0, 157, 211, 400)]
    for _ in range(40):
        width, height, size = (int(generator.integers(1, most + 1)) for most in (157, 211, 300))
        left, top = int(generator.integers(0, 158 - width)), int(generator.integers(0, 212 - height))
        cases.append((left, top, width, height, size))
    for number, (left, top, width, height, size) in enumerate(cases):
        flip = number % 2 == 1
        out = np.full((2, size, size, 3), 77, np.uint8)  # the second must stay as it is
        box = job(
            width=157, height=211, left=left, top=top, box_width=width, box_height=height, flip=flip,
            size=image.size, kind=IS_RAW,
        )  # fmt: skip
        assert decoder.run(-1, image.reshape(-1).copy(), box, out[:1]) == []
        crop = Image.fromarray(image[top : top + height, left : left + width])
        wanted = np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(out[0] - (wanted[:, ::-1] if flip else wanted)).max() <= 2, cases[number]
        assert (out[1] == 77).all()


def test_the_top_1_of_a_network_is_the_native_backends(val, sample_val, sample_train):
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 5, 2, 2), torch.nn.ReLU(), torch.nn.Conv2d(32, 64, 3, 2, 1), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(1024, len(sample_val.classes)),
    )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    plan = TrainPlan(len(sample_train), 100, seed=1, scale=(0.5, 1.0))
    with build_loader(sample_train, plan, "native", batch_size=100, resolution=32) as loader:
        for batch in itertools.chain(loader, loader):
            loss = torch.nn.functional.cross_entropy(network(batch.images / 255 - 0.5), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    top1 = {}
    for backend, dataset in (("native", sample_val), ("ffcv", val)):
        with (
            build_loader(dataset, EvalPlan(1000, 100), backend, batch_size=100, resolution=32) as loader,
            torch.no_grad(),
        ):
            hits = [(network(batch.images / 255 - 0.5).argmax(1) == batch.labels).sum().item() for batch in loader]
        top1[backend] = sum(hits) / 10
    print(f"\ntop-1 in percent: {top1}")
    assert top1["native"] > 25
    assert abs(top1["ffcv"] - top1["native"]) <= 0.2


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(("decode", "read"))]


def leave(loader, batches) -> None:
    loader.close()
    assert next(batches, None) is None


def fail(loader, batches) -> None:
    with pytest.raises(ZeroDivisionError), loader:
        raise ZeroDivisionError


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("end", [leave, fail, None], ids=["close", "exception", "garbage"])
def test_a_loader_that_ends_in_mid_epoch_leaves_nothing_behind(val, cache, end: Callable | None):
    with load(val, EvalPlan(1000, 500), batch_size=500, settings={"cache": cache}) as first:
        list(first)  # whatever is opened once a process
    del first
    gc.collect()
    for thread in workers():
        thread.join(IN_A_THREAD)
    before, threads = open_files(), len(workers())
    loader = load(val, TrainPlan(1000, 64), settings={"cache": cache}, prefetch=6)
    batches = iter(loader)
    next(batches)
    assert len(workers()) > threads
    if end is not None:
        end(loader, batches)
    del loader, batches
    gc.collect()
    for thread in workers():
        thread.join(IN_A_THREAD)
    assert len(workers()) <= threads
    assert open_files() == before


def test_ctrl_c_ends_the_process_at_once(val, start_command):
    code = (
        "import sys, torch\n"
        "torch.set_num_threads(2)\n"
        "from pipelines import TrainPlan, build_loader, open_dataset\n"
        "dataset = open_dataset(sys.argv[1], 'val', progress=False)\n"
        "loader = build_loader(dataset, TrainPlan(1000, 64), 'ffcv', batch_size=64, resolution=299, prefetch=8)\n"
        "for epoch in range(10**6):\n"
        "    for number, batch in enumerate(loader):\n"
        "        if epoch == number == 0: print('running,', torch.get_num_threads(), 'threads', flush=True)\n"
    )
    process = start_command([sys.executable, "-c", code, val.path], cwd=ROOT)
    process.wait_until(lambda: process.stdout == "running, 2 threads\n")  # importing FFCV itself would leave one
    os.kill(process.pid, signal.SIGINT)
    done = process.wait()
    assert done.returncode in (1, -signal.SIGINT)
    assert done.stderr.strip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize("cache", CACHES)
def test_twenty_epochs_do_not_grow_memory(val, cache):
    with load(val, TrainPlan(1000, 100), batch_size=100, settings={"cache": cache}) as loader:
        assert growth_over_epochs(loader) < 8


def test_the_systems_cache_holds_the_file_once_for_all_processes(odd_images, val, make_folder, tmp_path):
    """A process reads what it decodes where the page cache has it: its own memory never holds the file."""
    (tmp_path / "beton").mkdir()
    count = 24 * 2**20 // len(odd_images["plain"])
    folder = make_folder({f"train/a/{number:04d}.jpg": odd_images["plain"] for number in range(count)})
    many = open_dataset(as_beton(folder, "train", tmp_path / "beton"), "train", progress=False)
    size = (tmp_path / "beton/train.beton").stat().st_size / 2**20
    with load(val, EvalPlan(1000, 16)) as loader:
        list(loader)  # whatever is made once a process
    gc.collect()
    before = own()
    with load(many, EvalPlan(count, 16)) as loader:
        grown = max(own() - before for _ in loader)
    print(f"\na process grew by {grown:.1f} of the file's {size:.1f} MiB")
    assert size > 20
    assert grown < size / 2


MISTAKES = {
    "another setting": ({"cach": "os"}, r"unknown FFCV setting 'cach' \(nearest: cache\)"),
    "another cache": ({"cache": "disk"}, "'cache' must be one of os, process, not 'disk'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_setting_is_one_clear_line(val, mistake):
    settings, message = MISTAKES[mistake]
    with pytest.raises(DataError, match=message):
        load(val, EvalPlan(1000, 100), settings=settings)


def test_a_dataset_of_another_form_is_one_clear_line(sample_val):
    with pytest.raises(DataError, match=r"reads FFCV's files, and .* holds shards: write one with .*prepare\.py"):
        load(sample_val, EvalPlan(1000, 100))
