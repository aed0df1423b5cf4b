"""The doctor: every disease found and named, sound images left in peace, and a quarantine list that loaders honour."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from archives import mpirun, picture, tar
from pipelines import DataError, EvalPlan, build_loader, open_dataset
from pipelines.checking.image_check import Condition, examine
from pipelines.doctor import main

SCRIPT = Path(__file__).resolve().parents[3] / "pipelines/doctor.py"
DISEASES = {
    "corrupt": ["cat/empty.jpg", "cat/text.jpg"],
    "truncated": ["cat/cut.jpg", "cat/cut_then_ended.jpg", "dog/cut_cmyk.jpg", "dog/cut_png.png"],
    "damaged": ["dog/damaged.jpg"],
    "cmyk": ["dog/cmyk.jpg", "dog/cut_cmyk.jpg"],
    "gray": ["dog/gray.jpg"],
    "wrong_format": ["dog/really_png.jpg"],
    "rotated": [f"dog/rotated{orientation}.jpg" for orientation in range(2, 9)],
    "tiny": ["dog/tiny.jpg"],
}


def sick_files(odd_images: dict[str, bytes]) -> dict[str, bytes]:
    whole = odd_images["plain"]
    half = whole[: len(whole) // 2]
    files = {
        "train/cat/empty.jpg": b"",
        "train/cat/text.jpg": b"<html>404 not found</html>\n" * 20,
        "train/cat/cut.jpg": half,
        "train/cat/cut_then_ended.jpg": half + b"\xff\xd9",
        "train/dog/cut_cmyk.jpg": odd_images["cmyk"][:-4000],
        "train/dog/cut_png.png": odd_images["png"][:-4000],
        "train/dog/damaged.jpg": whole[:-2] + bytes(300) + b"\xff\xd9",
        "train/dog/cmyk.jpg": odd_images["cmyk"],
        "train/dog/gray.jpg": odd_images["gray"],
        "train/dog/really_png.jpg": odd_images["png"],
        "train/dog/tiny.jpg": picture(60, (20, 40)),
        "train/dog/twin.jpg": picture(1),
        "train/cat/other_class.jpg": picture(2),
        "val/dog/0.jpg": picture(70),
        "val/dog/seen_in_training.jpg": picture(3),
        "val/cat/0.jpg": picture(71),
    }
    files |= {f"train/dog/rotated{turn}.jpg": odd_images[f"rotated{turn}"] for turn in range(2, 9)}
    return files | {f"train/dog/sound{number}.jpg": picture(number) for number in range(8)}


@pytest.fixture(scope="module")
def sick(tmp_path_factory: pytest.TempPathFactory, odd_images: dict[str, bytes]) -> Path:
    root = tmp_path_factory.mktemp("sick")
    for path, data in sick_files(odd_images).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


@pytest.fixture(scope="module")
def found(sick: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The JSON report, and beside it the page and the quarantine list."""
    results = tmp_path_factory.mktemp("results")
    arguments = [str(sick), "--workers", "1", "--json", f"{results}/report.json"]
    assert main([*arguments, "--page", f"{results}/page.html", "--quarantine", f"{results}/quarantine.txt"], None) == 0
    return json.loads((results / "report.json").read_text()) | {"results": results}


@pytest.mark.parametrize("kind", DISEASES)
def test_each_disease_is_found_and_nothing_else(found: dict, kind: str) -> None:
    assert [row["name"] for row in found["splits"]["train"]["conditions"][kind]] == sorted(DISEASES[kind])
    assert found["splits"]["val"]["conditions"][kind] == []


def test_reasons_say_what_is_wrong(found: dict) -> None:
    rows = [row for rows in found["splits"]["train"]["conditions"].values() for row in rows]
    reasons = {row["name"]: row["reason"] for row in rows}
    assert reasons["cat/empty.jpg"] == "the file is empty"
    assert "premature end" in reasons["cat/cut_then_ended.jpg"]
    assert reasons["dog/really_png.jpg"] == "it is PNG, not JPEG"
    assert "extraneous" in reasons["dog/damaged.jpg"]


def names(groups: list[list[dict]]) -> list[set[str]]:
    return [{f"{image['split']}/{image['name']}" for image in group} for group in groups]


def test_the_same_picture_is_found_within_and_across_splits_and_classes(found: dict) -> None:
    assert {"train/dog/sound1.jpg", "train/dog/twin.jpg"} in names(found["splits"]["train"]["duplicates"])
    assert names(found["leaks"]) == [{"train/dog/sound3.jpg", "val/dog/seen_in_training.jpg"}]
    assert names(found["conflicts"]) == [{"train/dog/sound2.jpg", "train/cat/other_class.jpg"}]


def test_the_same_pixels_in_other_containers_are_the_same_picture(photos) -> None:
    digests = set()
    for form, turned in (("PNG", None), ("BMP", None), ("TIFF", None), ("PNG", 6)):
        file = io.BytesIO()
        options, image = {}, photos[0]
        if turned:
            exif = Image.Exif()
            exif[0x0112] = turned
            options, image = {"exif": exif}, image.transpose(Image.Transpose.ROTATE_90)
        image.save(file, form, **options)
        digests.add(examine(np.frombuffer(file.getvalue(), np.uint8), f"x.{form.lower()}", 32).digest)
    assert len(digests) == 1
    other = examine(np.frombuffer(picture(0), np.uint8), "x.jpg", 32)
    assert other.condition == Condition(0)
    assert other.digest not in digests


def test_class_balance_and_sizes(found: dict, sick: Path) -> None:
    train = found["splits"]["train"]
    counts = {name: len(list((sick / "train" / name).iterdir())) for name in ("cat", "dog")}
    assert train["classes"]["counts"] == counts
    assert train["classes"]["balance"]["ratio"] == counts["dog"] / counts["cat"]
    known = train["images"] - len(DISEASES["corrupt"]) - 1  # a PNG's orientation may come last: cut off, it is unknown
    assert sum(train["sizes"]["width"]["histogram"]["counts"]) == known
    assert train["sizes"]["width"]["percentiles"]["0"] == 20
    assert train["sizes"]["height"]["percentiles"]["0"] == 40


def test_the_text_has_numbers_names_and_histograms(sick: Path, capsys) -> None:
    assert main([str(sick), "--workers", "1"], None) == 0
    text = capsys.readouterr().out
    assert "2  corrupt: cannot be decoded\n" in text
    assert "cat/empty.jpg (the file is empty)" in text
    assert "train dog/sound3.jpg = val dog/seen_in_training.jpg" in text
    widths = re.search(r"width: +20 ([ ▁▂▃▄▅▆▇█]{24}) \d+", text)
    assert widths is not None
    assert "█" in widths[1]


def test_the_page_needs_nothing_else_and_shows_what_was_found(found: dict) -> None:
    page = (found["results"] / "page.html").read_text()
    assert not re.search(r"(src|href)=\"?(http|//|file)", page)
    assert "<script" not in page
    for name in [*DISEASES["truncated"], *DISEASES["cmyk"], "dog/twin.jpg", "val dog/seen_in_training.jpg"]:
        assert name in page
    pictures = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    assert len(pictures) > 15
    for data in pictures:
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            image.load()
            assert max(image.size) <= 224


def test_a_name_cannot_inject_markup(tmp_path: Path) -> None:
    (tmp_path / "in/train/<b>x").mkdir(parents=True)
    (tmp_path / "in/train/<b>x/<script>alert(1)<!--.jpg").write_bytes(b"")
    (tmp_path / "in/train/<b>x/1.jpg").write_bytes(picture(0))
    assert main([str(tmp_path / "in"), "--workers", "1", "--page", str(tmp_path / "page.html")], None) == 0
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;alert(1)" in page


# ---- quarantine -------------------------------------------------------------------------------------------------------


def left_out(sick: Path, file: Path) -> set[str]:
    everything, rest = open_dataset(sick, "train"), open_dataset(sick, "train", quarantine=file)
    kept = {rest.short_name(index) for index in range(len(rest))}
    return {everything.short_name(index) for index in range(len(everything))} - kept


def test_the_list_names_what_cannot_be_used_and_the_dataset_leaves_it_out(found: dict, sick: Path) -> None:
    unusable = {*DISEASES["corrupt"], *DISEASES["truncated"]}
    assert left_out(sick, found["results"] / "quarantine.txt") == unusable


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ("leak", {"dog/sound3.jpg"}),
        ("conflict", {"dog/sound2.jpg", "cat/other_class.jpg"}),
        ("tiny,gray", {"dog/tiny.jpg", "dog/gray.jpg"}),
        # A picture that is there in several forms counts too: the turned ones and the plain CMYK's kin stay different.
        ("duplicate", {"dog/twin.jpg"}),
    ],
)
def test_other_kinds_go_on_the_list_when_asked_for(sick: Path, tmp_path: Path, kinds: str, expected: set[str]) -> None:
    file = tmp_path / "list.txt"
    assert main([str(sick), "--workers", "1", "--quarantine", str(file), "--quarantine-kinds", kinds], None) == 0
    assert left_out(sick, file) == expected


@pytest.mark.parametrize("backend", ["native", "dali", "ffcv"])
def test_every_backend_honours_the_list(found: dict, sick: Path, tmp_path: Path, backend: str) -> None:
    root, quarantine = sick, found["results"] / "quarantine.txt"
    if backend == "ffcv":
        root, quarantine = as_beton(sick, quarantine, tmp_path)
    dataset = open_dataset(root, "train", quarantine=quarantine)
    assert len(dataset) == len(open_dataset(root, "train")) - (1 if backend == "ffcv" else 6)
    plan = EvalPlan(len(dataset), 8)
    with build_loader(dataset, plan, backend, batch_size=8, resolution=64, workers=1, on_error="raise") as loader:
        seen = np.concatenate([batch.indices.numpy() for batch in loader])
    assert sorted(seen.tolist()) == list(range(len(dataset)))


def as_beton(sick: Path, quarantine: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The usable images as a .beton, and a list that leaves out one more: the doctor's choice of the tiny one."""
    from pipelines.preparing.beton_writer import write_beton

    (tmp_path / "beton").mkdir()
    write_beton(lambda: open_dataset(sick, "train", quarantine=quarantine), tmp_path / "beton/train.beton")
    file = tmp_path / "beton.txt"
    arguments = [str(tmp_path / "beton"), "--workers", "1", "--quarantine", str(file), "--quarantine-kinds", "tiny"]
    assert main(arguments, None) == 0
    return tmp_path / "beton", file


def test_what_training_refuses_is_said(tmp_path: Path, capsys) -> None:
    for name in ("train/cat", "val/owl"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.jpg").write_bytes(picture(1))
    assert main([str(tmp_path), "--workers", "1", "--json", f"{tmp_path}/report.json"], None) == 0
    text = capsys.readouterr().out
    refused = json.loads((tmp_path / "report.json").read_text())["refused"]
    assert len(refused) == 2
    assert "(train) holds one class, 'cat'" in refused[0]
    assert "(val) holds class 'owl', which is not among the 1 expected classes" in refused[1]
    assert all(f"training refuses: {line}\n" in text for line in refused)


def test_shards_are_checked_and_quarantined_as_well(tmp_path: Path) -> None:
    whole = picture(0, (200, 200))
    members = [("dog/a.jpg", whole), ("dog/b.jpg", whole[: len(whole) // 2]), ("cat/a.jpg", picture(1))]
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train-000000.tar").write_bytes(tar(members))
    file = tmp_path / "list.txt"
    assert main([str(tmp_path / "data"), "--workers", "1", "--quarantine", str(file)], None) == 0
    assert "train-000000.tar:dog/b.jpg" in file.read_text().splitlines()
    assert left_out(tmp_path / "data", file) == {"train-000000.tar:dog/b.jpg"}


# ---- the command ------------------------------------------------------------------------------------------------------


def test_processes_and_mpi_ranks_report_the_same(found: dict, sick: Path, tmp_path: Path, run_command) -> None:
    expected = json.loads((found["results"] / "report.json").read_text())
    by_mpi, by_name = [*mpirun(2, tmp_path), str(SCRIPT)], [*mpirun(2, tmp_path), "-m", "engine", "doctor"]
    for number, launcher in enumerate(([str(SCRIPT)], by_mpi, by_name)):
        report = tmp_path / f"{number}.json"
        done = run_command([*launcher, sick, "--json", report], env={"PYTHONPATH": str(SCRIPT.parents[1])})
        assert done.returncode == 0, done.stderr
        assert "6 images cannot be used as they are" in done.stdout
        assert "images/s" in done.stdout
        assert json.loads(report.read_text()) == expected


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["/nowhere"], "/nowhere does not exist"),
        (["."], "neither a train nor a val split"),
        (["DIR", "--split", "test"], "invalid choice: 'test'"),
        (["DIR", "--quarantine-kinds", "corupt"], "unknown kind 'corupt' (nearest: corrupt)"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, monkeypatch, arguments: list[str], says: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=re.escape(says)):
        main(arguments, None)


def test_all_damaged_shards_are_named_and_the_others_examined(tmp_path: Path, capsys) -> None:
    root = tmp_path / "in"
    root.mkdir()
    for split, count in (("train", 4), ("val", 1)):
        for number in range(count):
            images = [
                (f"{label}/{number}.jpg", picture(10 * number + place)) for place, label in enumerate(("cat", "dog"))
            ]
            data = bytearray(tar(images))
            if split == "train" and number in (1, 3):
                data[3] ^= 1
            (root / f"{split}-{number}.tar").write_bytes(data)
    with pytest.raises(
        DataError, match=r"2 parts were not examined: .*train-1.tar is damaged.*; .*train-3.tar is damaged"
    ):
        main([str(root), "--workers", "2", "--json", f"{tmp_path}/report.json"], None)
    text, report = capsys.readouterr().out, json.loads((tmp_path / "report.json").read_text())
    assert {split: found["images"] for split, found in report["splits"].items()} == {"train": 4, "val": 2}
    assert len(report["not_examined"]["train"]) == 2
    assert re.search(r"not examined: .*train-1.tar is damaged or no tar file, at byte 0", text)
    assert "every image that was examined can be decoded wholly" in text
