"""Lists of paths and labels: every line is a sample, or said to be none; what comes later is seen."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

import pipelines.datasets.files
from archives import picture
from pipelines import DataError, open_dataset

LABELS = ("cat", "dog")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(4):
        write(tmp_path / f"data/train/{number}.jpg", picture(number))
    return tmp_path / "data"


def write(file: Path, content: bytes | str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)


def rows(*more: str, heading: str = "path,label") -> str:
    return "\n".join([heading, *(f"train/{number}.jpg,{LABELS[number % 2]}" for number in range(4)), *more]) + "\n"


def listed(root: Path) -> dict[str, str]:
    """Names and classes."""
    dataset = open_dataset(root, "train", progress=False)
    labels = dataset.labels(np.arange(len(dataset))).tolist()
    return {dataset.short_name(at).partition(":")[2]: dataset.classes[label] for at, label in enumerate(labels)}


WHOLE = {f"train/{number}.jpg": LABELS[number % 2] for number in range(4)}


def test_a_line_that_begins_with_a_hash_is_a_comment_unless_it_names_a_file(root):
    write(root / "train/#4.jpg", picture(4))
    comments = (
        "# a comment",
        '# an "open quote, of a comment',
        "#train/5.jpg,cat",
        f"# {300 * 'x'}, too long for a name",
    )
    write(root / "train.csv", "# made by hand\n" + rows(*comments, "#4.jpg,dog"))
    assert listed(root) == WHOLE | {"train/#4.jpg": "dog"}


def test_lines_end_at_line_feeds_alone(root):
    odd = "a\u2028b\x85c\x0bd\x1ce.jpg"
    write(root / "train" / odd, picture(4))
    write(root / "train.csv", rows(f"train/{odd},cat").replace("\n", "\r\n"))
    assert listed(root) == WHOLE | {f"train/{odd}": "cat"}


def test_commas_stand_in_names_where_blanks_part_the_columns(root):
    write(root / "train/a, b.jpg", picture(4))
    write(
        root / "train.txt", "".join(["train/a, b.jpg cat\n", *(f"{name} {label}\n" for name, label in WHOLE.items())])
    )
    assert listed(root) == WHOLE | {"train/a, b.jpg": "cat"}


def test_labels_that_only_begin_like_wordnets_stay_apart(root):
    write(root / "train.csv", "0.jpg,n01440764-a\n1.jpg,n01440764-b\n2.jpg,n01440764 tench\n3.jpg,n01443537 1 2 3 4\n")
    assert set(listed(root).values()) == {"n01440764-a", "n01440764-b", "n01440764", "n01443537"}


@pytest.mark.parametrize("line", ['"train/4.jpg,cat', 'train/4.jpg,"cat', '"train/4.jpg" x,cat', "train/4.jpg,/"])
def test_a_line_that_is_no_path_and_label_is_named(root, line):
    write(root / "train.csv", rows(line, "train/3.jpg,dog"))
    with pytest.raises(DataError, match=r"train.csv, line 6: expected a path and a label, got"):
        listed(root)


def test_headings_in_the_middle_are_those_of_lists_put_together(root):
    write(root / "train.csv", rows("path,label", "train/4.jpg,dog"))
    assert listed(root) == WHOLE
    assert open_dataset(root, "train", progress=False).passed_over == {"listed, but not there": (1, ["train/4.jpg"])}


def test_what_was_missing_is_trained_once_it_is_there(root):
    write(root / "train.csv", rows("train/4.jpg,cat", "later/deep/5.jpg,dog"))
    assert listed(root) == WHOLE
    write(root / "train/4.jpg", picture(4))
    assert listed(root) == WHOLE | {"train/4.jpg": "cat"}
    write(root / "later/deep/5.jpg", picture(5))
    assert listed(root) == WHOLE | {"train/4.jpg": "cat", "later/deep/5.jpg": "dog"}


def test_what_the_list_does_not_name_is_counted_once_it_is_there(root):
    (root / "train/more").mkdir()
    write(root / "train/labels.csv", rows().replace("train/", ""))
    assert not open_dataset(root, "train", progress=False).passed_over
    write(root / "train/more/4.jpg", picture(4))
    assert open_dataset(root, "train", progress=False).passed_over == {"not listed": (1, ["more/4.jpg"])}


def test_a_link_whose_target_is_not_mounted_is_a_sample_that_cannot_be_read_yet(root, tmp_path):
    (root / "train/4.jpg").symlink_to(tmp_path / "elsewhere/4.jpg")
    write(root / "train.csv", rows("train/4.jpg,cat"))
    dataset = open_dataset(root, "train", progress=False)
    assert (len(dataset), dataset.unreadable().tolist()) == (5, [4])
    write(tmp_path / "elsewhere/4.jpg", picture(4))
    dataset = open_dataset(root, "train", progress=False)
    assert (len(dataset), dataset.unreadable().tolist()) == (5, [])
    assert dataset.read(4).tobytes() == picture(4)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_file_that_storage_does_not_show_is_not_taken_for_absent(root, monkeypatch, number):
    write(root / "train.csv", rows())
    stat = os.stat

    def failing(path, **options):
        if str(path).endswith("train/2.jpg"):
            raise OSError(number, os.strerror(number), str(path))
        return stat(path, **options)

    monkeypatch.setattr(pipelines.datasets.files, "_PAUSES", (0.0, 0.0))
    monkeypatch.setattr(os, "stat", failing)
    with pytest.raises(DataError, match=rf"train/2.jpg cannot be read: {os.strerror(number)}"):
        listed(root)
