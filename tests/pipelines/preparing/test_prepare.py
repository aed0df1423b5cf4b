"""Preparation: from ImageNet's archives and from folders, to shards and folders; the same bytes by any number of workers."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import shutil
import signal
import sys
import tarfile
import time
import tracemalloc
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import timm.data
import webdataset
import xxhash
from PIL import Image

from archives import (
    CLASSES,
    contents,
    devkit,
    mpirun,
    picture,
    tar,
    train_images,
    val_images,
    write_folder,
    write_imagenet,
)
from pipelines import DataError, open_dataset
from pipelines.datasets.location import Location
from pipelines.prepare import main
from pipelines.preparing import preparation
from pipelines.preparing.catalogue import Inputs
from pipelines.preparing.pieces import Form
from pipelines.support.work_sharing import Processes
from processes import alive
from waiting import wait_until

SCRIPT = Path(__file__).resolve().parents[3] / "pipelines/prepare.py"


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_imagenet(tmp_path_factory.mktemp("imagenet"))


def prepare(*arguments: str | Path, workers: int = 1) -> None:
    assert main([*map(str, arguments), "--workers", str(workers)], None) == 0


def samples_of(root: Path, split: str) -> dict[str, bytes]:
    """ "class/file" -> bytes, as training reads them."""
    dataset = open_dataset(root, split, progress=False)
    labels = dataset.labels(np.arange(len(dataset)))
    found = {}
    for index in range(len(dataset)):
        name = Path(dataset.name(index).rpartition(":")[2]).name
        found[f"{dataset.classes[labels[index]]}/{name}"] = dataset.read(index).tobytes()
    return found


def member_names(shard: Path) -> list[str]:
    """Of the images."""
    with tarfile.open(shard) as archive:
        return [name for name in archive.getnames() if not name.endswith((".cls", ".json"))]


# ---- what comes out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["shards", "folder", "beton"])
def test_imagenet_archives_come_out_whole_with_their_classes(imagenet, tmp_path: Path, form: str) -> None:
    train, val = imagenet
    before = [(path.stat().st_size, path.stat().st_mtime_ns) for path in imagenet]
    prepare("imagenet", "--train", train, "--val", val, "--to", form, "--output", tmp_path / "out")
    labelled = {f"{label}/{name}": data for label, name, data in val_images()}
    for split, expected in (("train", train_images()), ("val", labelled)):
        found = samples_of(tmp_path / "out", split)
        if form == "beton":  # where samples have numbers, no names
            found = {name.partition("/")[0] + str(data): data for name, data in found.items()}
            expected = {name.partition("/")[0] + str(data): data for name, data in expected.items()}
        assert found == expected
    assert before == [(path.stat().st_size, path.stat().st_mtime_ns) for path in imagenet]
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["splits"]["train"] == {"samples": 15, "classes": dict.fromkeys(CLASSES, 5)}
    assert manifest["splits"]["val"]["samples"] == 6
    assert not (tmp_path / "out/.prepare").exists()


def test_shards_hold_a_shuffled_mix_that_the_seed_decides(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "in", each=40)
    orders = {}
    for seed in ("0", "0", "1", "none"):
        out = tmp_path / f"out{len(orders)}-{seed}"
        prepare("folder", data, "--to", "shards", "--output", out, "--shard-size", "30K", "--shuffle-seed", seed)
        shards = sorted(out.glob("train-*.tar"))
        assert len(shards) > 2
        order = [name for shard in shards for name in member_names(shard)]
        assert len(set(order)) == 80
        orders.setdefault(seed, []).append(order)
        first = {name.split("/")[0] for name in member_names(shards[0])}
        assert first == ({"cat"} if seed == "none" else {"cat", "dog"})
    assert orders["0"][0] == orders["0"][1]
    assert orders["0"][0] != orders["1"][0]
    assert sorted(orders["0"][0]) == sorted(orders["1"][0]) == orders["none"][0]


def test_webdataset_reads_the_shards(imagenet, tmp_path: Path) -> None:
    prepare("imagenet", "--train", imagenet[0], "--to", "shards", "--output", tmp_path / "out", "--shard-size", "8K")
    urls = [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert {f"{sample['__key__']}.JPEG": sample["jpeg"] for sample in samples} == train_images()
    for sample in samples:
        number, name = int(sample["cls"]), sample["__key__"].partition("/")[0]
        assert json.loads(sample["json"]) == {"label": number, "class_name": name}
        assert CLASSES[number] == name


def test_timm_reads_the_shards(imagenet, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare("imagenet", "--train", imagenet[0], "--to", "shards", "--output", out, "--shard-size", "8K")
    shards = sorted(path.name for path in out.glob("train-*.tar"))
    dataset = timm.data.create_dataset(
        f"wds/{out}", root=str(out), split=f"train-{{000000..{len(shards) - 1:06}}}.tar", num_samples=15, batch_size=1,
        input_key="jpg;jpeg;png",
    )  # fmt: skip
    found = sorted((label, image.size) for image, label in dataset)
    assert found == [(label, (64, 48)) for label in range(3) for _ in range(5)]


def test_shards_without_their_index_are_the_same_dataset(imagenet, tmp_path: Path) -> None:
    train, val = imagenet
    prepare("imagenet", "--train", train, "--val", val, "--to", "shards", "--output", tmp_path / "out")
    for split in ("train", "val"):
        before, known = samples_of(tmp_path / "out", split), open_dataset(tmp_path / "out", split, progress=False)
        shutil.rmtree(tmp_path / "out/.index")
        found = open_dataset(tmp_path / "out", split, progress=False)
        assert samples_of(tmp_path / "out", split) == before
        assert (found.classes, found.remarks) == (known.classes, known.remarks)
        everything = np.arange(len(found))
        assert (found.labels(everything) == known.labels(everything)).all()


def test_class_numbers_keep_their_place_and_are_one_in_both_splits(make_folder, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for split, numbers in (("train", (0, 3, 7)), ("val", (3,))):
        members = [
            (f"{n}.{end}", picture(n) if end == "jpg" else b"%02d" % n) for n in numbers for end in ("cls", "jpg")
        ]
        (tmp_path / f"in/{split}-0.tar").write_bytes(tar(members))
    prepare("folder", tmp_path / "in", "--to", "shards", "--output", tmp_path / "out")
    train = open_dataset(tmp_path / "out", "train", progress=False)
    assert train.classes == tuple("01234567")
    val = open_dataset(tmp_path / "out", "val", classes=train.classes, progress=False)
    assert val.labels([0]).tolist() == [3]


def test_what_is_passed_over_stands_in_the_manifest_and_is_said(make_folder, tmp_path: Path, capsys) -> None:
    files = {f"train/{name}/1.jpg": picture(1) for name in ("a", "b")}
    data = make_folder(files | {"train/a/x.heic": b"?", "train/.DS_Store": b"", "train/b/notes.txt": b""})
    prepare("folder", data, "--to", "shards", "--output", tmp_path / "out")
    line = "3 files passed over: 1 .heic (a/x.heic), 1 .txt (b/notes.txt), 1 hidden (.DS_Store)"
    assert f"train: {line}\n" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["remarks"] == {"train": [line]}
    assert manifest["passed_over"]["train"][".heic"] == [1, ["a/x.heic"]]


@pytest.mark.parametrize("form", ["shards", "folder", "beton"])
def test_names_with_line_ends_come_out_and_are_checked_again(tmp_path: Path, form: str) -> None:
    data = write_folder(tmp_path / "in")
    (data / "train/cat/two\nlines.jpg").write_bytes(picture(70))
    (data / "train/cat/and\r\n\u2028.jpg").write_bytes(picture(71))
    (data / "train/dog/bad\n.jpg").write_bytes(b"no image")
    arguments = ("folder", data, "--to", form, "--output", tmp_path / "out")
    prepare(*arguments)
    dataset = open_dataset(tmp_path / "out", "train", progress=False)
    assert len(dataset) == (12 if form == "beton" else 13)
    prepare(*arguments)


def test_a_class_with_a_line_end_in_its_name_is_refused(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "in")
    (data / "train/do\ng").mkdir()
    (data / "train/do\ng/1.jpg").write_bytes(picture(71))
    message = refused("folder", data, "--to", "shards", "--output", tmp_path / "out")
    assert "holds class 'do\\ng', which cannot be a folder's name" in message
    assert not (tmp_path / "out").exists()


def test_one_that_waited_for_another_finds_its_work_done(tmp_path: Path, start_command) -> None:
    data = write_folder(tmp_path / "in", each=60, size=(400, 400))
    command = [
        SCRIPT,
        "folder",
        data,
        "--to",
        "shards",
        "--quality",
        "60",
        "--output",
        tmp_path / "out",
        "--workers",
        "1",
    ]
    ended = [process.wait() for process in [start_command(command) for _ in range(3)]]
    assert [done.returncode for done in ended] == [0, 0, 0], [done.stderr for done in ended]
    assert sum("prepared and checked" in done.stdout for done in ended) == 1
    assert not (tmp_path / "out/.prepare").exists()


def test_shards_and_folders_turn_into_each_other(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "in")
    prepare("folder", data, "--to", "shards", "--output", tmp_path / "shards", "--shard-size", "5K")
    prepare("folder", tmp_path / "shards", "--to", "folder", "--output", tmp_path / "folder")
    inside = {str(path.relative_to(data)): path.read_bytes() for path in data.rglob("*.jpg")}
    assert {path: (tmp_path / "folder" / path).read_bytes() for path in inside} == inside
    assert len(list((tmp_path / "folder").rglob("*.jpg"))) == len(inside)


def test_beton_holds_the_same_samples_shuffled_and_back(odd_images, bad_images, make_folder, tmp_path: Path) -> None:
    files = {f"train/{name}/{number}.jpg": picture(number) for number, name in enumerate(["cat", "dog", "emu"] * 8)}
    files |= {f"train/cat/{name}.jpg": odd_images[name] for name in ("cmyk", "png", "rotated6")}
    files |= {"train/emu/bad.jpg": bad_images["text"], "val/dog/v.jpg": picture(90), "val/emu/w.jpg": picture(91)}
    out = tmp_path / "out"
    prepare("folder", make_folder(files), "--to", "beton", "--output", out, "--shard-size", "20K")
    assert sorted(path.name for path in out.iterdir() if path.name != ".index") == [
        "checksums.xxh128", "manifest.json", "train.beton", "train.beton.json", "val.beton", "val.beton.json",
    ]  # fmt: skip
    dataset = open_dataset(out, "train", progress=False)
    assert len(dataset) == 27
    labels = dataset.labels(np.arange(27))
    assert labels.tolist() != sorted(labels.tolist())
    stored = {dataset.read(index).tobytes() for index in range(27)}
    assert {data for path, data in files.items() if path[-5].isdigit() and "train" in path} < stored
    val = open_dataset(out, "val", classes=dataset.classes, progress=False)
    assert [dataset.classes[label] for label in val.labels(np.arange(2))] in (["dog", "emu"], ["emu", "dog"])
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["unreadable"] == ["train/emu/bad.jpg"]
    assert manifest["splits"]["train"]["samples"] == 27
    assert manifest["splits"]["train"]["classes"] == {"cat": 11, "dog": 8, "emu": 8}
    prepare("folder", out, "--to", "folder", "--output", tmp_path / "back")
    assert len(list((tmp_path / "back/train/cat").glob("*.jpg"))) == 9
    assert len(list((tmp_path / "back/train/cat").glob("*.ppm"))) == 2


def test_checksums_are_those_of_xxhsum(tmp_path: Path) -> None:
    prepare(
        "folder", write_folder(tmp_path / "in"), "--to", "shards", "--output", tmp_path / "out", "--shard-size", "5K"
    )
    lines = (tmp_path / "out/checksums.xxh128").read_text().splitlines()
    for line in lines:
        digest, name = line.split("  ")
        assert xxhash.xxh3_128_hexdigest((tmp_path / "out" / name).read_bytes()) == digest
    assert {line.split("  ")[1] for line in lines} == {path.name for path in (tmp_path / "out").glob("*.tar")}


def test_names_that_webdataset_would_take_for_one_sample_are_told_apart(make_folder, tmp_path: Path) -> None:
    files = {
        f"train/a/{name}": picture(number) for number, name in enumerate(("x.jpg", "x.1.jpg", "x.2.jpg", "x_1.jpg"))
    }
    png = io.BytesIO()
    Image.open(io.BytesIO(picture(9))).save(png, "PNG")
    files |= {"train/a/x.png": png.getvalue(), "train/a/deep/x.jpg": picture(10), "train/train/x.jpg": picture(11)}
    data = make_folder(files)
    prepare("folder", data, "--to", "shards", "--output", tmp_path / "out")
    dataset = open_dataset(tmp_path / "out", "train", progress=False)
    assert sorted(dataset.read(index).tobytes() for index in range(len(dataset))) == sorted(files.values())
    names = member_names(tmp_path / "out/train-000000.tar")
    keys = [name.rpartition("/")[0] + "/" + name.rpartition("/")[2].partition(".")[0] for name in names]
    assert len(set(keys)) == len(files)
    assert dataset.classes == ("a", "train")


def test_a_member_name_cannot_leave_the_output(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    evil = [("../../../escaped/x.jpg", picture(0)), ("../../../escaped/x.cls", b"cat")]
    (tmp_path / "in/train-0.tar").write_bytes(tar(evil))
    prepare("folder", tmp_path / "in", "--to", "folder", "--output", tmp_path / "sub/dir/out")
    assert len(list((tmp_path / "sub/dir/out/train/cat").rglob("*.jpg"))) == 1
    (tmp_path / "in/train-0.tar").write_bytes(tar([("x.jpg", picture(0)), ("x.cls", b"../../cat")]))
    with pytest.raises(DataError, match=r"class '../../cat', which cannot be a folder's name"):
        prepare("folder", tmp_path / "in", "--to", "folder", "--output", tmp_path / "sub/dir/other")


def test_longest_side_and_quality_shrink_what_is_larger(
    photos, odd_images, bad_images, make_folder, tmp_path: Path
) -> None:
    small = picture(0, (50, 40))
    names = ("plain", "gray", "cmyk", "png", "rotated6")
    files = {f"train/a/{name}.jpg": odd_images[name] for name in names}
    data = make_folder({**files, "train/a/small.jpg": small, "train/a/bad.jpg": bad_images["noise"]})
    prepare("folder", data, "--to", "folder", "--output", tmp_path / "out", "--longest-side", "120")
    assert (tmp_path / "out/train/a/small.jpg").read_bytes() == small
    assert (tmp_path / "out/train/a/bad.jpg").read_bytes() == bad_images["noise"]
    assert json.loads((tmp_path / "out/manifest.json").read_text())["unreadable"] == ["train/a/bad.jpg"]
    photo = photos[4]
    scale = 120 / max(photo.size)
    reference = np.asarray(photo.resize([round(side * scale) for side in photo.size], Image.Resampling.LANCZOS), float)
    for name in names:
        with Image.open(tmp_path / f"out/train/a/{name}.jpg") as image:
            assert (image.format, image.mode, image.getexif().get(0x0112)) == ("JPEG", "RGB", None)
            error = np.abs(
                np.asarray(image, float) - (reference.mean(2, keepdims=True) if name == "gray" else reference)
            )
            assert error.mean() < (14 if name == "gray" else 7), (
                name
            )  # another picture, or this one turned: 40 and more
    prepare("folder", data, "--to", "folder", "--output", tmp_path / "q", "--quality", "30")
    assert 0 < (tmp_path / "q/train/a/small.jpg").stat().st_size < len(small)
    assert (tmp_path / "q/train/a/plain.jpg").stat().st_size < len(odd_images["plain"]) / 2


# ---- labels of the validation archive ---------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["two columns", "kaggle", "one column"])
def test_validation_labels_come_from_a_mapping_of_any_usual_form(imagenet, tmp_path: Path, style: str) -> None:
    rows = [(name.removesuffix(".JPEG"), label) for label, name, _ in val_images()]
    text = {
        "two columns": "\n".join(f"{stem}.JPEG {label}" for stem, label in reversed(rows)),
        "kaggle": "\n".join(
            ["ImageId,PredictionString", *(f"{stem},{label} 1 2 3 4" for stem, label in reversed(rows))]
        ),
        "one column": "\n".join(label for _, label in rows),
    }[style]
    (tmp_path / "labels.txt").write_text(text)
    labels = tmp_path / "labels.txt"
    prepare("imagenet", "--val", imagenet[1], "--val-labels", labels, "--to", "shards", "--output", tmp_path / "out")
    assert samples_of(tmp_path / "out", "val") == {f"{label}/{name}": data for label, name, data in val_images()}


# ---- what can be wrong ------------------------------------------------------------------------------------------------


def refused(*arguments: str | Path) -> str:
    with pytest.raises(DataError) as error:
        prepare(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_archives_that_are_missing_cut_off_or_mixed_up(imagenet, tmp_path: Path) -> None:
    train, val = imagenet
    ending = ("--to", "shards", "--output", tmp_path / "out")
    assert "does not exist" in refused("imagenet", "--train", tmp_path / "no.tar", *ending)
    assert "give --train" in refused("imagenet", *ending)
    whole = train.read_bytes()
    for cut in (len(whole) // 2, len(whole) // 3, 100, 0, len(whole) - 10240):
        (tmp_path / "cut.tar").write_bytes(whole[:cut])
        assert "is damaged or no tar file" in refused("imagenet", "--train", tmp_path / "cut.tar", *ending), cut
    (tmp_path / "cut.tar").write_bytes(val.read_bytes()[:9000])
    shutil.copy(val.with_name("ILSVRC2012_devkit_t12.tar.gz"), tmp_path)
    assert "is damaged or no tar file" in refused("imagenet", "--val", tmp_path / "cut.tar", *ending)
    assert "is it ILSVRC2012_img_train.tar?" in refused("imagenet", "--train", val, *ending)
    assert "is it ILSVRC2012_img_val.tar?" in refused("imagenet", "--val", train, *ending)


def test_a_flipped_bit_in_imagenets_archive_costs_no_image_in_silence(imagenet, tmp_path: Path) -> None:
    train, _ = imagenet
    with tarfile.open(train) as archive:
        part = archive.getmembers()[1]
    whole = train.read_bytes()
    content = whole[part.offset_data : part.offset_data + part.size]
    with tarfile.open(fileobj=io.BytesIO(content)) as images:
        headers = [part.offset_data + image.offset for image in images]
    for place in (part.offset, headers[0], headers[3]):
        (tmp_path / "bad.tar").write_bytes(whole[: place + 3] + bytes([whole[place + 3] ^ 1]) + whole[place + 4 :])
        said = refused("imagenet", "--train", tmp_path / "bad.tar", "--to", "shards", "--output", tmp_path / "out")
        assert f"bad.tar is damaged or no tar file, at byte {place:,}" in said


def test_labels_without_images_are_counted(imagenet, tmp_path: Path) -> None:
    images = dict(val_images()[i][1:] for i in range(6))
    missing = sorted(images)[2]
    (tmp_path / "ILSVRC2012_img_val.tar").write_bytes(
        tar((name, data) for name, data in images.items() if name != missing)
    )
    shutil.copy(imagenet[1].with_name("ILSVRC2012_devkit_t12.tar.gz"), tmp_path)
    val = tmp_path / "ILSVRC2012_img_val.tar"
    prepare("imagenet", "--val", val, "--to", "shards", "--output", tmp_path / "out")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["splits"]["val"]["samples"] == 5
    assert manifest["passed_over"]["val"] == {"labelled, but not there": [1, [missing.removesuffix(".JPEG")]]}


def test_a_folder_that_cannot_be_listed_is_bad_input(tmp_path: Path, monkeypatch) -> None:
    root = write_folder(tmp_path / "data")
    scandir = os.scandir

    def failing(place):
        if str(place).endswith("train/dog"):
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", failing)
    said = refused("folder", root, "--to", "shards", "--output", tmp_path / "out")
    assert said == f"{root}/train/dog cannot be read: Permission denied"


def test_labels_that_are_missing_or_name_unknown_classes(imagenet, tmp_path: Path) -> None:
    train, val = imagenet
    moved = tmp_path / val.name
    shutil.copy(val, moved)
    ending = ("--to", "shards", "--output", tmp_path / "out")
    assert "no labels for" in refused("imagenet", "--val", moved, *ending)
    (tmp_path / "labels.txt").write_text("ILSVRC2012_val_00000001 n01440764\n")
    labels = ("--val-labels", tmp_path / "labels.txt")
    assert "do not name 'ILSVRC2012_val_00000002.JPEG'" in refused("imagenet", "--val", val, *labels, *ending)
    (tmp_path / "labels.txt").write_text("ILSVRC2012_val_00000001 n01440765\n")
    message = refused("imagenet", "--train", train, "--val", val, *labels, *ending)
    assert "'n01440765', which is none of the 3" in message
    assert "nearest: n01440764" in message
    (tmp_path / "rubbish.txt").write_text("ILSVRC2012_val_00000001 n01440764\nrubbish\n")
    assert "line 2" in refused("imagenet", "--val", val, "--val-labels", tmp_path / "rubbish.txt", *ending)
    (tmp_path / "kit.tar.gz").write_bytes(devkit([5]))
    assert "validation label 1 is '5'" in refused(
        "imagenet", "--val", val, "--devkit", tmp_path / "kit.tar.gz", *ending
    )
    (tmp_path / "bad.tar.gz").write_bytes(b"no archive")
    assert "cannot be read" in refused("imagenet", "--val", val, "--devkit", tmp_path / "bad.tar.gz", *ending)
    assert not (tmp_path / "out").exists()


def test_val_classes_that_train_lacks(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "in")
    (data / "val/dog").rename(data / "val/dogs")
    message = refused("folder", data, "--to", "shards", "--output", tmp_path / "out")
    assert "class 'dogs'" in message
    assert "nearest: dog" in message


def test_an_output_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "in")
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    assert "holds something else (thesis.tex)" in refused("folder", data, "--to", "shards", "--output", out)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]
    (out / "thesis.tex").unlink()
    prepare("folder", data, "--to", "shards", "--output", out, "--shard-size", "5K")
    made = contents(out)
    assert "shard_size 5120, not 6144" in refused(
        "folder", data, "--to", "shards", "--output", out, "--shard-size", "6K"
    )
    assert "of to shards, not folder" in refused("folder", data, "--to", "folder", "--output", out)
    (data / "train/cat/new.jpg").write_bytes(picture(77))
    again = ("folder", data, "--to", "shards", "--output", out, "--shard-size", "5K")
    assert "other or changed input" in refused(*again)
    assert "lies in the input" in refused("folder", data, "--to", "shards", "--output", data / "train/out")
    assert contents(out) == made


def test_too_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_folder(tmp_path / "in")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 5000, 5000))
    message = refused("folder", data, "--to", "shards", "--output", tmp_path / "out")
    assert "too little room" in message
    assert not list((tmp_path / "out").glob("*.tar"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["folder", "DIR", "--to", "shards", "--output", "out", "--quality", "101"], "quality from 1 to 100"),
        (["folder", "DIR", "--to", "zip", "--output", "out"], "invalid choice: 'zip'"),
        (["folder", "DIR", "--to", "shards", "--output", "out", "--shard-size", "1T"], "expected bytes such as"),
        (["folder", "/nowhere", "--to", "shards", "--output", "out"], "/nowhere does not exist"),
    ],
)
def test_bad_command_lines(arguments: list[str], says: str) -> None:
    assert says in refused(*arguments)


def test_a_finished_output_is_checked_again_and_damage_is_found(tmp_path: Path, capsys) -> None:
    data, out = write_folder(tmp_path / "in"), tmp_path / "out"
    arguments = ("folder", data, "--to", "shards", "--output", out, "--shard-size", "5K")
    prepare(*arguments)
    made = contents(out)
    prepare(*arguments)
    assert "was prepared already; its checksums are right" in capsys.readouterr().out
    assert contents(out) == made
    shard = out / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:700] + b"!" + shard.read_bytes()[701:])
    assert "train-000001.tar changed since it was prepared" in refused(*arguments)


# ---- many workers, MPI, interruption ----------------------------------------------------------------------------------


def test_processes_and_mpi_ranks_make_the_same_bytes(imagenet, tmp_path: Path, run_command) -> None:
    train, val = imagenet
    options = ["imagenet", "--train", str(train), "--val", str(val), "--to", "shards", "--shard-size", "5K"]
    prepare(*options, "--output", tmp_path / "one")
    expected = contents(tmp_path / "one")
    assert len(expected) > 5
    done = run_command([str(SCRIPT), *options, "--output", tmp_path / "three", "--workers", "3"])
    assert done.returncode == 0, done.stderr
    assert "15 train and 6 val images" in done.stdout
    for ranks in (2, 3):
        done = run_command([*mpirun(ranks, tmp_path), str(SCRIPT), *options, "--output", tmp_path / f"mpi{ranks}"])
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("prepared and checked") == 1
        assert contents(tmp_path / f"mpi{ranks}") == expected
    assert contents(tmp_path / "three") == expected
    options[6] = "beton"
    prepare(*options, "--output", tmp_path / "beton")
    done = run_command([*mpirun(2, tmp_path), str(SCRIPT), *options, "--output", tmp_path / "mpi-beton"])
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "mpi-beton") == contents(tmp_path / "beton")
    assert "val.beton" in contents(tmp_path / "beton")


def test_a_failure_on_any_rank_ends_all_with_one_line(tmp_path: Path, run_command) -> None:
    data = write_folder(tmp_path / "in", each=30)
    (data / "train/cat/cat7.jpg").unlink()
    (data / "train/cat/cat7.jpg").symlink_to("nowhere.jpg")
    options = ["folder", data, "--to", "shards", "--shard-size", "5K", "--output"]
    done = run_command([*mpirun(2, tmp_path), str(SCRIPT), *options, tmp_path / "out"])
    assert done.returncode == 2
    assert done.stderr.count("error:") == 1
    assert "cat/cat7.jpg cannot be read" in done.stderr
    assert "Traceback" not in done.stderr
    done = run_command([str(SCRIPT), *options, tmp_path / "two", "--workers", "2"])
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    done = run_command([*mpirun(2, tmp_path), str(SCRIPT), "folder", "--to", "nothing"])
    assert done.returncode == 2
    assert done.stderr.count("error:") == 1


@pytest.mark.parametrize("launcher", ["processes", "mpi"])
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, start_command, run_command, launcher: str) -> None:
    data = write_folder(tmp_path / "in", each=40, size=(700, 700))
    options = ["folder", str(data), "--to", "shards", "--shard-size", "100K", "--quality", "60", "--output"]
    prepare(*options, tmp_path / "quiet")
    start = [*mpirun(2, tmp_path), str(SCRIPT)] if launcher == "mpi" else [str(SCRIPT)]
    command = [*start, *options, str(tmp_path / "out"), *([] if launcher == "mpi" else ["--workers", "2"])]
    process = start_command(command)
    process.wait_until(lambda: len(list((tmp_path / "out").glob("train-*.tar"))) >= 3)
    process.kill()
    journal = (tmp_path / "out/.prepare/journal.jsonl").read_text().splitlines(keepends=True)
    finished = [json.loads(line)["files"][0][0] for line in journal if line.endswith("\n")]
    assert 0 < len(finished) < len(contents(tmp_path / "quiet")) - 1
    before = {name: (tmp_path / "out" / name).stat().st_ino for name in finished}
    done = run_command(command)
    assert done.returncode == 0, done.stderr
    assert f"going on: {len(finished)} of" in done.stdout
    assert {name: (tmp_path / "out" / name).stat().st_ino for name in finished} == before
    assert contents(tmp_path / "out") == contents(tmp_path / "quiet")


def test_worker_processes_do_not_outlive_a_killed_parent(tmp_path: Path, start_command) -> None:
    data = write_folder(tmp_path / "in", each=40, size=(700, 700))
    command = [SCRIPT, "folder", data, "--to", "shards", "--shard-size", "100K", "--quality", "60"]
    process = start_command([*command, "--output", tmp_path / "out", "--workers", "2"])
    children = process.wait_until(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text).split()
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not any(alive(int(child)) for child in children), lambda: f"of {children} some are alive")


def test_a_disk_that_refuses_is_one_line_and_the_run_goes_on_later(tmp_path: Path, run_command) -> None:
    data = write_folder(tmp_path / "in", each=30, size=(300, 300))
    options = [
        str(SCRIPT),
        "folder",
        str(data),
        "--to",
        "shards",
        "--shard-size",
        "1M",
        "--output",
        str(tmp_path / "out"),
    ]
    limited = ["bash", "-c", 'ulimit -f 100; exec "$@"', "bash", sys.executable, *options, "--workers", "2"]
    done = run_command(limited)  # no file may grow beyond 100 KiB, as if the disk were full
    assert done.returncode == 1
    assert done.stderr == f"error: File too large: {tmp_path / 'out'}\n"
    done = run_command([*options, "--workers", "2"])
    assert done.returncode == 0, done.stderr
    assert len(samples_of(tmp_path / "out", "train")) == 60


def test_names_need_not_be_utf8(tmp_path: Path, run_command) -> None:
    folder = tmp_path / "in/train" / os.fsdecode(b"caf\xe9")
    folder.mkdir(parents=True)
    for name, data in ((b"r\xe9sum\xe9.jpg", picture(0)), (b"bad\xff.jpg", b"")):
        (folder / os.fsdecode(name)).write_bytes(data)
    for form in ("shards", "folder", "beton"):
        options = ["--to", form, "--output", str(tmp_path / form), "--workers", "1"]
        done = run_command([SCRIPT, "folder", tmp_path / "in", *options])
        assert done.returncode == 0, done.stderr
        assert r"no decoder can read train/caf\udce9/bad\udcff" in done.stdout
        assert open_dataset(tmp_path / form, "train", progress=False).classes == (os.fsdecode(b"caf\xe9"),)
        done = run_command([SCRIPT.with_name("doctor.py"), tmp_path / form, "--page", tmp_path / "page.html"])
        assert done.returncode == 0, done.stderr


@pytest.mark.soak
@pytest.mark.parametrize("launcher", ["processes", "mpi"])
def test_any_number_of_kills_at_any_time(tmp_path: Path, start_command, launcher: str) -> None:
    data = write_folder(tmp_path / "in", each=60, size=(500, 500))
    options = ["folder", str(data), "--to", "beton", "--shard-size", "100K", "--quality", "60", "--output"]
    prepare(*options, tmp_path / "quiet")
    start = [*mpirun(2, tmp_path), str(SCRIPT)] if launcher == "mpi" else [str(SCRIPT)]
    command = [*start, *options, str(tmp_path / "out"), *([] if launcher == "mpi" else ["--workers", "2"])]
    generator = np.random.default_rng(0)
    for _ in range(15):
        process = start_command(command)
        time.sleep(generator.uniform(0.3, 2.5))
        process.kill()
    done = start_command(command).wait()
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "out") == contents(tmp_path / "quiet")


def test_memory_does_not_grow_with_the_names_of_files(tmp_path: Path, monkeypatch) -> None:
    """Class folders of 50 files each; what indexes hold while they are written is bounded elsewhere, and left out.

    The lesser peak of two: Python's table of interned strings, to which pathlib adds every part of a path, is made anew when it
    is full, which takes megabytes and does not happen twice in a row."""
    peaks, data = {}, picture(1, (16, 16))
    for classes, attempt in product((10, 50), range(2)):
        root = tmp_path / f"of {classes}, {attempt}"
        counts = {f"{label:02}": 50 for label in range(classes)}
        for label in counts:
            (root / "train" / label).mkdir(parents=True)
            for number in range(50):
                (root / "train" / label / f"{number:02}{'x' * 200}.jpg").write_bytes(data)
        monkeypatch.setattr(preparation, "_class_counts", lambda *_, found=counts: found)
        inputs = Inputs(Location(str(root)))
        tracemalloc.start()
        preparation.prepare(inputs, Form("folder"), tmp_path / f"out of {root.name}", Processes(1), print)
        peaks[classes] = min(peaks.get(classes, math.inf), tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[50] - peaks[10]) / (40 * 50) < 150  # bytes a file; its name alone takes 250
