"""`prepare --store windows`: the same pixels as from the JPEGs on every backend; the same bytes whoever wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from archives import contents
from pipelines import EvalPlan, TrainPlan, build_loader, open_dataset
from pipelines.decoding import fast_decode
from pipelines.prepare import main


def prepare(data: Path, output: Path, *options: str, workers: int = 1) -> Path:
    assert main(["folder", str(data), "--output", str(output), *options, "--workers", str(workers)], None) == 0
    return output


@pytest.fixture(scope="module")
def stores(photo_set, tmp_path_factory) -> dict[str, Path]:
    """Photos and odd images as they come and with windows, in the same order."""
    root = tmp_path_factory.mktemp("stores")
    return {
        f"{store} {form}": prepare(photo_set, root / f"{store}-{form}", "--to", form, "--store", store)
        for store in ("jpeg", "windows")
        for form in ("shards", "beton")
    }


def opened(folder: Path, **options):
    return open_dataset(folder, "train", progress=False, **options)


def batches(dataset, plan, backend: str = "native", **options):
    with build_loader(dataset, plan, backend, batch_size=8, resolution=96, **options) as loader:
        return list(loader)


def same(first, second) -> bool:
    pairs = list(zip(first, second, strict=True))
    return all(torch.equal(a.images, b.images) and torch.equal(a.indices, b.indices) for a, b in pairs) and bool(pairs)


@pytest.mark.parametrize("plan", ["train", "train with both filters", "evaluation of a view"])
@pytest.mark.parametrize("backend", ["native", "dali", "ffcv"])
def test_batches_are_those_of_the_jpegs_to_the_bit(stores, backend, plan):
    form = "beton" if backend == "ffcv" else "shards"
    jpegs, cut = opened(stores[f"jpeg {form}"]), opened(stores[f"windows {form}"])
    made = {
        "train": lambda: TrainPlan(len(jpegs), 16, seed=3),
        "train with both filters": lambda: TrainPlan(len(jpegs), 16, seed=3, interpolation="random"),
        "evaluation of a view": lambda: EvalPlan(len(jpegs), 16, resize=110, interpolation="bicubic"),
    }[plan]()
    assert same(batches(jpegs, made, backend), batches(cut, made, backend))


def test_dali_is_handed_the_same_pixels_cut_or_not_from_folders_too(stores, tmp_path):
    folder = opened(prepare(stores["windows shards"], tmp_path / "folder", "--to", "folder"))
    plan = TrainPlan(len(folder), 16, seed=4)
    assert same(*(batches(folder, plan, "dali", settings={"cut": cut}) for cut in (True, False)))


def test_dali_says_when_it_cannot_cut(stores, monkeypatch):
    monkeypatch.setattr(fast_decode, "library", lambda: (None, "no C compiler"))
    dataset = opened(stores["windows shards"])
    with build_loader(dataset, EvalPlan(len(dataset), 8), "dali", batch_size=8, resolution=32) as loader:
        assert "restart markers are not cut, for want of the compiled decoder (no C compiler)" in loader.reason


def test_a_resumed_rank_goes_on_with_the_same_pixels(stores):
    jpegs, cut = opened(stores["jpeg shards"]), opened(stores["windows shards"])
    plan = TrainPlan(len(jpegs), 16, seed=5)
    for rank in (0, 1):
        share = {"rank": rank, "world_size": 2}
        whole = batches(jpegs, plan, **share)
        with build_loader(cut, plan, "native", batch_size=8, resolution=96, **share) as loader:
            begun = [next(iter(loader))]
            state = loader.state_dict()
        with build_loader(cut, plan, "native", batch_size=8, resolution=96, **share) as loader:
            loader.load_state_dict(state)
            assert same(whole, [*begun, *loader])


def test_what_stays_is_counted_by_reason_and_workers_make_the_same_bytes(stores, photo_set, tmp_path):
    manifest = json.loads((stores["windows shards"] / "manifest.json").read_text())
    assert (manifest["job"]["store"], manifest["kept"]) == ("windows", {"CMYK": 1, "no JPEG": 1})
    again = prepare(photo_set, tmp_path / "out", "--to", "shards", "--store", "windows", workers=3)
    assert contents(again) == contents(stores["windows shards"])


def test_a_window_in_quarantine_is_left_out(stores, tmp_path):
    name = opened(stores["windows shards"]).short_name(3)
    (tmp_path / "bad.txt").write_text(f"{name}\n")
    dataset = opened(stores["windows shards"], quarantine=tmp_path / "bad.txt")
    assert dataset.quarantined == 1
    assert name not in [dataset.short_name(index) for index in range(len(dataset))]
