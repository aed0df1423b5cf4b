"""The forms that people's datasets have: each is found, read whole, and what was assumed of it is said."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from archives import picture
from pipelines import DataError, open_dataset
from pipelines.datasets.forms import splits_in
from tars import archive

NUMBERS = {"cat": range(8), "dog": range(8, 16)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def write(file: Path, content: bytes | str = b"") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)


def folders(place: Path, extension: str = "jpg") -> None:
    for label, numbers in NUMBERS.items():
        for number in numbers:
            write(place / label / f"{number}.{extension}", picture(number))


def flat(place: Path) -> None:
    for number in range(16):
        write(place / f"{number}.jpg", picture(number))


def shard(file: Path, numbers=range(16), lead: str = "") -> None:
    write(file, archive({f"{lead}{label_of(number)}/{number}.jpg": picture(number) for number in numbers}))


def label_of(number: int) -> str:
    return "cat" if number < 8 else "dog"


WHOLE = {picture(number): label_of(number) for number in range(16)}


def labelled(where, split: str, **options) -> dict[bytes, str]:
    dataset = open_dataset(where, split, progress=False, **options)
    labels = dataset.labels(np.arange(len(dataset)))
    found = {dataset.read(index).tobytes(): dataset.classes[label] for index, label in enumerate(labels)}
    assert len(found) == len(dataset)
    return found


def remarks(where, split: str, **options) -> list[str]:
    return open_dataset(where, split, progress=False, **options).remarks


@pytest.mark.parametrize("called", ["val", "validation", "valid", "test", "Validation", "TEST"])
def test_the_val_split_under_any_usual_name(root, called):
    folders(root / "train")
    folders(root / called)
    assert labelled(root, "val") == WHOLE
    said = [] if called == "val" else [f"the val split is what {root} calls '{called.lower()}'"]
    assert remarks(root, "val") == (said if called.lower() != "val" else [])
    assert splits_in(root) == ["train", "val"]


def test_val_is_preferred_to_test_which_is_named(root):
    for name in ("train", "val", "test"):
        folders(root / name)
    assert remarks(root, "val") == []
    assert remarks(root, "train") == ["1 file passed over: 1 folder beside the splits (test)"]


@pytest.mark.parametrize(
    "pattern",
    ["imagenet1k-train-{:04}.tar", "train_{}.tar", "train/{:06}.tar", "Train/x-{:03}.tar", "train-{:05}-of-00004.tar"],
)
def test_shards_are_found_by_the_split_in_their_names(root, pattern):
    for number in range(4):
        shard(root / pattern.format(number), range(number, 16, 4))
    assert labelled(root, "train") == WHOLE
    assert remarks(root, "train") == []
    (root / pattern.format(2)).unlink()
    missing = pattern.format(2).rpartition("/")[2]
    assert remarks(root, "train") == [f"the shards' numbers have gaps: {missing} is not there"]


@pytest.mark.parametrize("name", ["train.tar", "imagenet_train.tar"])
def test_one_shard_is_a_split(root, name):
    shard(root / name, lead="imagenet/train/")
    assert labelled(root, "train") == WHOLE


@pytest.mark.parametrize("pattern", ["{a,b}-{0..1}.tar", "*.tar", "?-[01].tar", "a-0.tar"])
def test_patterns_name_shards(root, pattern):
    names = ["a-0.tar"] if pattern == "a-0.tar" else ["a-0.tar", "a-1.tar", "b-0.tar", "b-1.tar"]
    for number, name in enumerate(names):
        shard(root / name, range(number, 16, len(names)))
    assert labelled(f"{root}/{pattern}", "train", alone=True) == WHOLE
    assert labelled(f"{root}/{pattern}", "val", alone=True) == WHOLE


def test_a_pattern_that_names_more_than_there_is(root):
    shard(root / "a-0000.tar")
    with pytest.raises(DataError, match=r"no file .*a-0001.tar and 1 more, of the 3 that the pattern .* names"):
        open_dataset(f"{root}/a-{{0000..0002}}.tar", "train", alone=True, progress=False)
    with pytest.raises(DataError, match=r"no file .*b-\*.tar, of the 1"):
        open_dataset(f"{root}/b-*.tar", "train", alone=True, progress=False)


def test_what_lies_beside_shards_or_the_only_split_is_counted(root):
    shard(root / "val/0.tar")
    write(root / "val/notes/readme.txt")
    write(root / "more/1.jpg", picture(1))
    dataset = open_dataset(root, "val", progress=False)
    assert len(dataset) == 16
    assert dataset.passed_over == {
        "folder beside the shards": (1, ["notes"]),
        "folder beside the splits": (1, ["more"]),
    }


def test_a_pattern_passes_over_no_folder_that_cannot_be_listed(root, monkeypatch):
    for number in range(2):
        shard(root / f"part{number}/train-0.tar", range(8 * number, 8 * number + 8))
    assert labelled(root / "p*/train-*.tar", "train", alone=True) == WHOLE
    listdir = os.listdir

    def refused(place):
        if str(place).endswith("part1"):
            raise PermissionError(13, "Permission denied", str(place))
        return listdir(place)

    monkeypatch.setattr(os, "listdir", refused)
    with pytest.raises(DataError, match=r"part1 cannot be read: Permission denied"):
        labelled(root / "p*/train-*.tar", "train", alone=True)


def test_a_folder_of_a_split_alone(root):
    folders(root / "mine")
    assert labelled(root / "mine", "train", alone=True) == WHOLE
    assert labelled(root / "mine", "val", alone=True, classes=("dog", "cat")) == WHOLE


def test_folders_without_splits_are_shared_the_same_way_each_time(root, tmp_path):
    folders(root)
    write(root / "notes.txt")
    train, val = labelled(root, "train"), labelled(root, "val")
    assert train | val == WHOLE
    assert len(train) + len(val) == 16
    assert sorted(val.values()) == ["cat", "dog"]
    assert remarks(root, "val") == [
        f"{root} has no splits: 10% of each class, chosen by the images' names, are the val split",
        "1 file passed over: 1 .txt (notes.txt)",
    ]
    assert splits_in(root) == ["train", "val"]
    folders(tmp_path / "elsewhere")
    assert labelled(tmp_path / "elsewhere", "val") == val


@pytest.mark.parametrize("place", ["ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", ""])
def test_kaggles_imagenet(root, place):
    ids = {"cat": "n02123045", "dog": "n02085620"}
    for label, wordnet in ids.items():
        for number in NUMBERS[label]:
            write(root / place / "train" / wordnet / f"{wordnet}_{number}.JPEG", picture(number))
    rows = ["ImageId,PredictionString"]
    for number in range(16):
        write(root / place / "val" / f"ILSVRC2012_val_{number + 1:08}.JPEG", picture(number))
        rows.append(f"ILSVRC2012_val_{number + 1:08},{ids[label_of(number)]} 85 1 499 272 ")
    write(root / place / "test" / "ILSVRC2012_test_00000001.JPEG", picture(99))
    write(root / "LOC_val_solution.csv", "\n".join(rows))
    expected = {data: ids[label] for data, label in WHOLE.items()}
    assert labelled(root, "train") == expected
    assert labelled(root, "val") == expected
    assert remarks(root, "val") == [f"labels from {root}/LOC_val_solution.csv"]
    assert "1 folder beside the splits (test)" in remarks(root, "train")[-1]


def test_tiny_imagenets_val_annotations(root):
    for label, numbers in NUMBERS.items():
        for number in numbers:
            write(root / "train" / label / "images" / f"{label}_{number}.JPEG", picture(number))
        write(root / "train" / label / f"{label}_boxes.txt")
    flat(root / "val/images")
    rows = "".join(f"{number}.jpg\t{label_of(number)}\t0\t32\t44\t62\n" for number in range(16))
    write(root / "val/val_annotations.txt", rows)
    assert labelled(root, "train") == labelled(root, "val") == WHOLE
    assert remarks(root, "val") == [f"labels from {root}/val/val_annotations.txt"]
    assert "classes from the first folder of each name" in remarks(root, "train")[0]
    assert "2 .txt" in remarks(root, "train")[1]


LISTS = {
    "a heading": ("train.csv", "id,path,label\n{n},train/{n}.jpg,{label}\n"),
    "no heading": ("train.csv", "train/{n}.jpg,{label}\n"),
    "only names": ("train_labels.csv", "filename;class\n{n}.jpg;{label}\n"),
    "no endings": ("train.csv", "id,breed\n{n},{label}\n"),
    "blanks": ("train.txt", "train/{n}.jpg {label}\n"),
    "tabs": ("train.tsv", "path\tlabel\n./train/{n}.jpg\t{label}\n"),
    "absolute": ("train.csv", "{root}/train/{n}.jpg,{label}\n"),
    "quoted": ("train.csv", '"train/{n}.jpg","{label}"\r\n'),
    "marked": ("train.csv", "\ufefffile_name,label\ntrain/{n}.jpg,{label}\n"),
    "within": ("train/metadata.csv", "file_name,label\n{n}.jpg,{label}\n"),
    "within, from above": ("train/labels.csv", "path,label\ntrain/{n}.jpg,{label}\n"),
}


@pytest.mark.parametrize(("name", "form"), LISTS.values(), ids=LISTS.keys())
def test_a_list_gives_labels(root, name, form):
    flat(root / "train")
    *heading, row = form.splitlines(keepends=True)
    rows = "".join(row.format(n=number, label=label_of(number), root=root) for number in range(16))
    write(root / name, "".join(heading) + rows)
    assert labelled(root, "train") == WHOLE
    assert remarks(root, "train") == [f"labels from {root / name}"]
    assert labelled(root / name, "val", alone=True) == WHOLE


def test_a_list_of_numbers_names_classes_by_number(root):
    flat(root / "pictures with blanks")
    rows = "".join(f"pictures with blanks/{number}.jpg {'07'[number // 8]}\n" for number in range(16))
    write(root / "train.txt", rows)
    dataset = open_dataset(root, "train", progress=False)
    assert dataset.classes == tuple("01234567")
    assert dataset.name(0) == f"{root}/train.txt:pictures with blanks/0.jpg"
    assert dataset.remarks[0] == f"labels from {root}/train.txt; only what it lists is used"
    assert dataset.passed_over == {"folder of which only what is listed is used": (1, ["pictures with blanks"])}


def test_what_a_list_and_its_folder_do_not_share_is_counted(root):
    flat(root / "train")
    write(root / "train/Thumbs.db")
    rows = [f"{number}.jpg,{label_of(number)}" for number in range(12)]
    write(root / "train.csv", "\n".join([*rows, "77.jpg,cat", rows[0]]))
    assert len(labelled(root, "train")) == 12
    assert remarks(root, "train")[1] == (
        "7 files passed over: 4 not listed (12.jpg, 13.jpg, 14.jpg, ...), 1 left by a system (Thumbs.db), "
        "1 listed again (0.jpg), 1 listed, but not there (77.jpg)"
    )
    write(root / "train.csv", "\n".join([*rows, "0.jpg,dog"]))
    with pytest.raises(DataError, match=r"train.csv, line 13: 0.jpg is listed as 'cat' and 'dog'"):
        labelled(root, "train")


def test_a_list_beside_class_folders_is_counted(root):
    folders(root / "train")
    write(root / "train.csv", "path,label\n0.jpg,cat\n")
    assert labelled(root, "train") == WHOLE
    assert remarks(root, "train") == ["1 file passed over: 1 .csv (train.csv)"]


def test_links_that_lead_nowhere_are_named(root):
    (root / "train").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"no 'train' split .*; train is a link that leads nowhere"):
        open_dataset(root, "train", progress=False)
    (root / "train").unlink()
    (root / "train").symlink_to("train")
    with pytest.raises(DataError, match=r"train cannot be read: Too many levels of symbolic links"):
        open_dataset(root, "train", progress=False)
    (root / "round").symlink_to("round")
    with pytest.raises(DataError, match=r"round cannot be read: Too many levels of symbolic links"):
        open_dataset(root / "round", "train", progress=False)


@pytest.mark.parametrize(
    ("files", "split", "says"),
    [
        ({"train.tar.gz": b""}, "train", "no 'train' split in .*; train.tar.gz is compressed: unpack it"),
        ({"train/1.jpg": b""}, "train", "train holds images, but no class folders and no list of their labels"),
        ({"train/1.jpg": b"", "train/labels.csv": "a\nb"}, "train", "labels.csv, line 1: expected a path and a label"),
        ({"train/1.jpg": b"", "train.csv": ""}, "train", "train.csv is empty; expected"),
        ({"train.csv": "path,label\n1.jpg,cat\n"}, "train", "train.csv names no image that is there: 1 file passed over"),
        ({"train.csv": "image,cat,dog\n1.jpg,a,b\n"}, "train", r"heading \(image,cat,dog\) names no column of labels"),
        ({"train/part/0.tar": b""}, "train", r"holds no images \(1 file passed over: 1 .tar .*--data.train '.*/\*/\*.tar'"),
        ({"train.csv": "1.jpg,a", "train.txt": "1.jpg a"}, "train", "'train' split more than once"),
        ({"a-train-0.tar": b"", "b-train-0.tar": b""}, "train", r"several sets of shards .*--data.train '.*a-train-\*.tar'"),
        ({"train/x.tar": b"", "train/1.jpg": b""}, "train", "train holds tar shards and images"),
        ({"train/x.tar": b"", "train/cat/1.jpg": b""}, "train", r"tar shards and class folders of images \(cat\)"),
        ({"train/a/1.jpg": b"", "TRAIN/b/1.jpg": b""}, "train", r"'train' split more than once \(TRAIN/ and train/\)"),
        ({"cat/1.jpg": b""}, "train", "no 'train' split"),
        ({"a/1.jpg": b"", "b/1.jpg": b"", "c/x.txt": b""}, "train", "its folders classes, .* and c holds none"),
        ({}, "val", "the directory is empty"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_dataset_is_one_line(root, files, split, says):
    for name, content in files.items():
        write(root / name, content)
    with pytest.raises(DataError, match=says) as error:
        open_dataset(root, split, progress=False)
    assert "\n" not in str(error.value)


# ---- what stands among images -----------------------------------------------------------------------------------------


def test_what_systems_and_programs_leave_is_counted(root):
    folders(root / "train")
    for name in ("._0.jpg", ".DS_Store", "Thumbs.db", "@eaDir/0.jpg", "__MACOSX/0.jpg", ".hidden/0.jpg", "a.txt", "b"):
        write(root / "train/cat" / name, b"?")
    write(root / "train/.DS_Store")
    write(root / "train/stray.jpg", b"?")
    dataset = open_dataset(root, "train", progress=False)
    assert len(dataset) == 16
    assert {kind: count for kind, (count, _) in dataset.passed_over.items()} == {
        "hidden": 3, "left by a system": 4, ".txt": 1, "without an extension": 1, "image in no class folder": 1,
    }  # fmt: skip
    assert sorted(dataset.passed_over["hidden"][1]) == [".DS_Store", "cat/.DS_Store", "cat/.hidden/"]
    assert dataset.passed_over.total == 10


def test_links_are_followed_and_loops_are_not(root):
    folders(root / "train")
    write(root / "elsewhere/x.jpg", picture(90))
    (root / "train/cat/linked.jpg").symlink_to(root / "elsewhere/x.jpg")
    (root / "train/dog/more").symlink_to(root / "elsewhere")
    (root / "train/dog/up").symlink_to(root / "train/dog")
    (root / "train/dog/self.jpg").symlink_to("self.jpg")
    (root / "round").symlink_to("round")
    os.mkfifo(root / "train/dog/pipe.jpg")
    dataset = open_dataset(root, "train", progress=False)
    assert len(dataset) == 18
    assert {kind: names for kind, (_, names) in dataset.passed_over.items()} == {
        "folder beside the splits": ["elsewhere"],
        "link to a folder above itself": ["dog/up"],
        "link to itself": ["round", "dog/self.jpg"],
        "pipe, socket or device": ["dog/pipe.jpg"],
    }


def test_a_folder_that_cannot_be_read_is_named(root, monkeypatch):
    folders(root / "train")
    scandir = os.scandir

    def refused(place):
        if str(place).endswith("train/dog"):
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(DataError, match=r"train/dog cannot be read: Permission denied"):
        open_dataset(root, "train", progress=False)


def test_the_message_for_a_file_in_place_of_a_folder_names_the_option(root):
    shard(root / "x.tar")
    with pytest.raises(DataError, match=re.escape("or the split itself by --data.train")):
        open_dataset(root / "x.tar", "train", progress=False)


def test_a_list_in_utf_16_is_read_and_one_in_no_text_refused(root):
    flat(root / "train")
    rows = "path\tlabel\r\n" + "".join(f"{number}.jpg\t{label_of(number)}\r\n" for number in range(16))
    write(root / "train.tsv", rows.encode("utf-16"))
    assert labelled(root, "train") == WHOLE
    write(root / "train.tsv", rows.encode("utf-16-le"))
    with pytest.raises(DataError, match=r"train.tsv is no text in UTF-8 or in UTF-16 with its mark"):
        labelled(root, "train")


def test_names_in_a_tar_that_lead_upwards_have_the_class_that_they_lead_to(root):
    members = [("../../cat/1.jpg", picture(1)), ("./cat/../dog/2.jpg", picture(2)), ("/dog/3.jpg", picture(3))]
    write(root / "train.tar", archive(members))
    dataset = open_dataset(root, "train", progress=False)
    assert dataset.classes == ("cat", "dog")
    assert dataset.labels(np.arange(3)).tolist() == [0, 1, 1]
