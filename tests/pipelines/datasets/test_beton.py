"""FFCV's file format: what our writer makes of a dataset, read by us and by FFCV itself, and files that FFCV wrote."""

import errno
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import ffcv.types
import numpy as np
import pytest
from ffcv.fields import IntField, RGBImageField
from ffcv.reader import Reader
from ffcv.writer import DatasetWriter
from PIL import Image

from pipelines import DataError, open_dataset, sample_path
from pipelines.datasets.beton import ALLOCATION, FIELD, HEADER, IMAGE, JPEG, RAW, classes_file
from pipelines.decoding.decode import decode
from pipelines.preparing.beton_writer import write_beton
from pipelines.support.work_sharing import Processes


def write(folder: Path, split: str = "train", quarantine: Path | None = None) -> Path:
    """FOLDER's split as DIRECTORY/split.beton, in a directory beside it."""
    home = folder.with_name("beton")
    home.mkdir(exist_ok=True)
    write_beton(partial(open_dataset, folder, split, quarantine=quarantine, progress=False), home / f"{split}.beton")
    return home


def test_the_tables_are_ffcvs():
    assert ffcv.types.HeaderType == HEADER
    assert ffcv.types.FieldDescType.itemsize == FIELD.itemsize
    assert ffcv.types.ALLOC_TABLE_TYPE == ALLOCATION
    assert RGBImageField().metadata_type == IMAGE


def test_a_beton_holds_the_datasets_own_bytes_for_us_and_for_ffcv(tmp_path, sample_val):
    write_beton(partial(open_dataset, sample_path(), "val", progress=False), tmp_path / "val.beton")
    beton = open_dataset(tmp_path, "val", progress=False)
    every = np.arange(len(sample_val))
    assert beton.classes == sample_val.classes
    assert (beton.labels(every) == sample_val.labels(every)).all()
    assert (beton.sizes(every) == sample_val.sizes(every)).all()
    assert all(bytes(beton.read(index)) == bytes(sample_val.read(index)) for index in every)
    reader = Reader(str(tmp_path / "val.beton"))
    assert list(reader.handlers) == ["image", "label"]
    assert reader.metadata["f1"].tolist() == sample_val.labels(every).tolist()
    stored = np.fromfile(tmp_path / "val.beton", np.uint8)
    for sample, place, size in reader.alloc_table[::97].tolist():
        assert bytes(stored[place : place + size]) == bytes(sample_val.read(sample))
        assert place // reader.page_size == (place + size - 1) // reader.page_size
    assert len(stored) % reader.page_size == reader.alloc_table.nbytes


def test_any_number_of_workers_writes_the_same_file(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.preparing.beton_writer._RUN", 1 << 18)  # many runs
    team = Processes(3)
    samples = partial(open_dataset, sample_path(), "val", progress=False)
    write_beton(samples, tmp_path / "one.beton")
    write_beton(samples, tmp_path / "three.beton", team)
    team.close()
    assert (tmp_path / "one.beton").read_bytes() == (tmp_path / "three.beton").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        name for stem in ("one", "three") for name in (f"{stem}.beton", f"{stem}.beton.json")
    )


def test_what_ffcv_cannot_decode_is_stored_as_upright_pixels(make_folder, odd_images):
    folder = make_folder({f"train/a/{name}.jpg": data for name, data in odd_images.items()})
    source = open_dataset(folder, "train", progress=False)
    beton = open_dataset(write(folder), "train", progress=False)
    names = [Path(source.name(index)).stem for index in range(len(source))]
    modes = beton.source.tables.rows(0, len(beton))[0]["mode"]
    assert {name for name, mode in zip(names, modes) if mode == RAW} == {"cmyk", "png"}
    every = np.arange(len(source))
    assert (beton.sizes(every) == source.sizes(every)).all()
    for index, mode in enumerate(modes):
        assert (decode(beton.read(index)) == decode(source.read(index))).all(), names[index]
        image = beton.source.tables.image(index)
        if mode == JPEG:  # described as it is stored, which is what FFCV decodes by
            with Image.open(source.name(index)) as original:
                assert (image["width"], image["height"]) == original.size


def test_files_that_ffcv_wrote_are_read_with_numbers_for_names(tmp_path, photos):
    samples = [(np.asarray(photo), number % 3 + 9) for number, photo in enumerate(photos[:7])]
    writer = DatasetWriter(
        str(tmp_path / "train.beton"),
        {"label": IntField(), "image": RGBImageField(write_mode="proportion", compress_probability=0.5)},
        num_workers=2,
    )
    np.random.seed(0)  # noqa: NPY002  # which FFCV draws the compressed ones from
    writer.from_indexed_dataset([(label, pixels) for pixels, label in samples], chunksize=2)
    dataset = open_dataset(tmp_path, "train", progress=False)
    assert dataset.classes == tuple(str(number) for number in range(12))  # a class keeps its number
    assert dataset.labels(np.arange(7)).tolist() == [9, 10, 11, 9, 10, 11, 9]
    assert dataset.remarks == ["labels are numbers up to 11; of 0, 1, 2, 3, 4, ... there are no images"]
    modes = dataset.source.tables.rows(0, len(dataset))[0]["mode"]
    assert set(modes) == {JPEG, RAW}
    for index, (pixels, _) in enumerate(samples):
        read = decode(dataset.read(index)).permute(1, 2, 0).numpy()
        assert read.shape == pixels.shape
        error = np.abs(read.astype(int) - pixels).mean()
        assert error == 0 if modes[index] == RAW else error < 8


def test_a_quarantined_sample_is_left_out(make_folder, odd_images, bad_images, tmp_path):
    folder = make_folder({"train/a/1.jpg": odd_images["plain"], "train/b/2.jpg": bad_images["text"]})
    with pytest.raises(DataError, match=r"train/b/2\.jpg: it is no image"):
        write(folder)
    assert not list((tmp_path / "beton").glob("*.beton"))
    (tmp_path / "bad").write_text("b/2.jpg\n")
    home = write(folder, quarantine=tmp_path / "bad")
    beton = open_dataset(home, "train", progress=False)
    assert len(beton) == 1
    assert json.loads(classes_file(home / "train.beton").read_text()) == {"classes": ["a", "b"]}


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "another file": (lambda data: b"PK" + data[2:], "no FFCV file of version 2"),
    "empty": (lambda data: b"", "cut off in its header"),
    "cut in its tables": (lambda data: data[:2200], "cut off in its samples"),
    "cut in its samples": (lambda data: data[: (8 << 20) + 500], "cut off in its samples"),
    "cut in its last table": (lambda data: data[:-24], "does not hold all"),
    "unfinished": (lambda data: data[:16] + bytes(8) + data[24:], "unfinished"),
    "without samples": (lambda data: data[:8] + bytes(8) + data[16:], "holds no samples"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_one_clear_error(make_folder, odd_images, damage):
    home = write(make_folder({f"train/a/{number}.jpg": odd_images["plain"] for number in range(8)}))
    change, message = DAMAGES[damage]
    data = (home / "train.beton").read_bytes()
    (home / "train.beton").write_bytes(change(data))
    with pytest.raises(DataError, match=message):
        open_dataset(home, "train", progress=False)


@pytest.mark.parametrize("value", [2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 1000])
def test_no_number_of_its_tables_is_too_large_to_be_refused(make_folder, odd_images, value):
    home = write(make_folder({f"train/a/{number}.jpg": odd_images["plain"] for number in range(3)}))
    data = (home / "train.beton").read_bytes()
    header = np.frombuffer(data, HEADER, 1)[0]
    row = HEADER.itemsize + int(header["num_fields"]) * FIELD.itemsize
    table = int(header["alloc_table_ptr"])
    places = {name: HEADER.fields[name][1] for name in ("num_samples", "alloc_table_ptr")}
    sample = np.dtype([("image", IMAGE), ("label", "<i8")], align=True)
    places |= {"place": row + IMAGE.fields["data_ptr"][1], "label": row + sample.fields["label"][1]}
    places |= {f"table's {name}": table + ALLOCATION.fields[name][1] for name in ("ptr", "size")}
    for place in places.values():
        (home / "train.beton").write_bytes(data[:place] + value.to_bytes(8, "little") + data[place + 8 :])
        with pytest.raises(DataError, match=r"train.beton (is cut off|does not hold all|holds label)"):
            open_dataset(home, "train", progress=False)


def test_class_names_that_storage_does_not_give_are_not_called_damaged(make_folder, odd_images, monkeypatch):
    home = write(make_folder({f"train/{name}/1.jpg": odd_images["plain"] for name in "ab"}))
    stat = os.stat

    def failing(path, **options):
        if str(path).endswith("train.beton.json"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", failing)
    with pytest.raises(DataError, match=r"train\.beton\.json cannot be read: Input/output error"):
        open_dataset(home, "train", progress=False)


def test_wrong_class_names_are_one_clear_error(make_folder, odd_images):
    home = write(make_folder({f"train/{name}/1.jpg": odd_images["plain"] for name in "abc"}))
    classes_file(home / "train.beton").write_text('{"classes": ["a", "b"]}')
    with pytest.raises(DataError, match=r"holds label 2, but .*train\.beton\.json names 2 classes"):
        open_dataset(home, "train", progress=False)
    classes_file(home / "train.beton").write_text("[]")
    with pytest.raises(DataError, match=r"train\.beton\.json is damaged"):
        open_dataset(home, "train", progress=False)
