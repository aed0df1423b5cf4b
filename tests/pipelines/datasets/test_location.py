"""Where a dataset lies as the commands are told it: splits that lie apart, and the share that is held out."""

from pathlib import Path

import pytest

from archives import picture
from engine.config.data_options import DataConfig
from pipelines import DataError
from pipelines.datasets.location import Location, add_location
from pipelines.support.entry_point import Parser

EACH = 10


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two class folders."""
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(EACH):
            (tmp_path / "data" / label / f"{number}.jpg").write_bytes(picture(number))
    return tmp_path / "data"


def names(location: Location, split: str) -> set[str]:
    dataset = location.open(split, progress=False)
    return {dataset.short_name(index) for index in range(len(dataset))}


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_share_held_out_is_taken_by_whoever_asks_for_it(root, share):
    location = Location(str(root), held_out=share)
    assert location.splits() == ["train", "val"]
    part = {split: names(location, split) for split in location.splits()}
    assert len(part["val"]) == 2 * round(EACH * share)
    assert len(part["train"] | part["val"]) == 2 * EACH
    assert part["val"] == names(location, "val")
    val = location.open("val", progress=False)
    assert val.held_out == share
    assert f"{100 * share:g}% of each class" in val.remarks[0]


def test_a_share_that_cannot_be_held_out_is_said(root):
    for split in ("train", "val"):
        dataset = Location(train=str(root), val=str(root), held_out=0.2).open(split, progress=False)
        assert (len(dataset), dataset.held_out) == (2 * EACH, 0.0)
        assert dataset.remarks == [f"nothing is held out, as 20% should be: {root} is a split itself"]


@pytest.mark.parametrize("value", ["0", "1", "-0.1", "nan", "much"])
def test_a_share_out_of_bounds_is_refused(value):
    parser = Parser("x")
    add_location(parser)
    with pytest.raises(DataError, match=f"expected a share from 0.001 to 0.9, got '{value}'"):
        parser.parse_args([f"--data.held_out={value}"])
    assert DataConfig().held_out == parser.parse_args([]).held_out == 0.1


def test_splits_apart_need_no_folder(root):
    assert Location(train=str(root)).splits() == ["train"]
    assert str(Location(train=str(root), val="x")) == f"{root} and x"
    with pytest.raises(DataError, match="no data: give a dataset's folder, or its splits"):
        Location().splits()
