"""The files outrank the index: what changed since, what could not be read then, and what an older index still knows."""

import errno
import io
import os
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

import pipelines.datasets.files
import pipelines.datasets.indexing
from pipelines import DataError, EvalPlan, build_loader, open_dataset
from pipelines.datasets.dataset import Dataset
from pipelines.datasets.files import OpenFile, OpenFiles
from pipelines.datasets.folders import Folders
from pipelines.datasets.image_headers import Flag, Header
from pipelines.datasets.index import _load
from pipelines.datasets.index_writing import write_rows
from pipelines.datasets.indexing import made_part
from pipelines.datasets.source import Aside, Found
from pipelines.decoding import fast_decode
from pipelines.decoding.decode import crop_resize, decode


def opened(path, **options):
    return open_dataset(path, "train", progress=False, **options)


def jpeg(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, **options)
    return file.getvalue()


def shard(path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))


def evaluated(dataset, backend: str = "native", **options):
    """Images and labels of all samples, and what was substituted."""
    plan = EvalPlan(len(dataset), 4)
    with build_loader(dataset, plan, backend, batch_size=4, resolution=48, workers=2, **options) as loader:
        batches = list(loader)
        return torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches]), loader.substitutions


def wanted(dataset, data: bytes):
    image = decode(data)
    sizes = np.array([[image.shape[2], image.shape[1]]])
    box = EvalPlan(len(dataset), 4).boxes(0, np.zeros(1, np.int64), sizes)[0]
    return crop_resize(image, tuple(box.tolist()), 48)


def near(first, second) -> bool:
    return (first.float() - second.float()).abs().mean() < 2


@pytest.mark.parametrize("decoder", ["compiled", "torchvision"])
def test_files_changed_in_place_are_read_as_they_are_now(make_folder, photos, backend, decoder, monkeypatch):
    """Of another size, shape, orientation and kind, in a folder whose own time of change stays the same."""
    if decoder == "torchvision":
        monkeypatch.setattr(fast_decode, "library", lambda: (None, "not wanted"))
    path = make_folder({f"train/a/{number}.jpg": jpeg(photos[number]) for number in range(7)})
    opened(path)
    exif = Image.Exif()
    exif[0x0112] = 6
    png = io.BytesIO()
    photos[13].save(png, "PNG")
    now = {
        1: jpeg(photos[11].resize((90, 240))),
        2: jpeg(photos[12].resize((800, 500)), exif=exif),
        3: png.getvalue(),
        4: jpeg(photos[14].resize(photos[4].size)),
    }
    for number, data in now.items():
        (path / f"train/a/{number}.jpg").write_bytes(data)
    dataset = opened(path)
    images, labels, substitutions = evaluated(dataset, backend)
    assert substitutions == []
    assert labels.tolist() == [0] * 7
    for number in range(7):
        assert near(images[number], wanted(dataset, now.get(number, jpeg(photos[number])))), number
    assert dataset.sizes(np.array([1, 2])).tolist() == [[90, 240], [500, 800]]


def test_a_file_that_changed_to_something_else_is_a_named_sample(make_folder, photos, backend):
    path = make_folder({f"train/a/{number}.jpg": jpeg(photos[number]) for number in range(5)})
    dataset = opened(path)
    (path / "train/a/1.jpg").write_bytes(b"")
    (path / "train/a/2.jpg").unlink()
    (path / "train/a/3.jpg").write_bytes(jpeg(photos[3])[:3000])
    _, labels, substitutions = evaluated(dataset, backend, on_error="skip")
    assert labels.tolist() == [0, -1, -1, -1, 0]
    assert [name.rpartition("/")[2] for name, _ in substitutions] == ["1.jpg", "2.jpg", "3.jpg"]
    with pytest.raises(DataError, match=r"a/1\.jpg"):
        evaluated(dataset, backend)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT])
def test_storage_that_fails_once_while_indexing_marks_nothing(make_folder, photos, monkeypatch, number):
    path = make_folder({f"train/a/{number}.jpg": jpeg(photos[number]) for number in range(3)})
    failing, stat = [number], OpenFile.stat

    def once(self):
        if failing:
            raise OSError(failing.pop(), "storage fails")
        return stat(self)

    monkeypatch.setattr(OpenFile, "stat", once)
    dataset = opened(path)
    assert not failing
    assert len(dataset.unreadable()) == 0
    assert dataset._index.unreadable == 0


def test_storage_that_goes_on_failing_ends_indexing_with_the_files_name(make_folder, photos, monkeypatch):
    path = make_folder({f"train/a/{number}.jpg": jpeg(photos[number]) for number in range(3)})
    monkeypatch.setattr("pipelines.datasets.files._PAUSES", (0.0, 0.0))
    monkeypatch.setattr(OpenFile, "stat", lambda self: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(DataError, match=r"train/a/\d\.jpg cannot be read: Input/output error; start again"):
        opened(path)
    monkeypatch.undo()
    assert len(opened(path)) == 3


COMES = {
    "an image in a class folder": ("folders", "train/a/9.jpg", 5),
    "a class folder": ("folders", "train/c/9.jpg", 5),
    "images in a shard": ("shards", "train-0.tar", 4),
    "a shard": ("shards", "train-1.tar", 8),
    "an image of a flat folder": ("list", "train/9.jpg", 4),
}


@pytest.mark.parametrize("what", COMES)
def test_what_comes_while_indexing_is_not_missed(tmp_path, photos, monkeypatch, what):
    form, comes, count = COMES[what]
    data = jpeg(photos[0])
    names = [f"{label}/{n}.jpg" for label in "ab" for n in range(2)]

    def write(name: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".tar"):
            shard(tmp_path / name, dict.fromkeys(names, data))
        else:
            (tmp_path / name).write_bytes(data)

    for name in {"folders": [f"train/{name}" for name in names], "shards": ["train-0.tar"]}.get(form, []):
        write(name)
    if form == "list":
        for number in range(4):
            write(f"train/{number}.jpg")
        (tmp_path / "train.csv").write_text("".join(f"{number}.jpg,{number % 2}\n" for number in range(4)))
    probe, coming = pipelines.datasets.indexing.probe, [comes]

    def probing(*arguments):
        if coming:
            write(coming.pop())
        return probe(*arguments)

    monkeypatch.setattr(pipelines.datasets.indexing, "probe", probing)
    with pytest.raises(DataError, match=r"changed while it was indexed; start again when it is at rest"):
        opened(tmp_path)
    assert len(opened(tmp_path)) == count


def test_a_list_is_indexed_once(tmp_path, photos):
    (tmp_path / "1.jpg").write_bytes(jpeg(photos[0]))
    (tmp_path / "train.csv").write_text("1.jpg,0\n")
    first = opened(tmp_path)  # which makes the folder of indexes
    assert opened(tmp_path)._index.directory == first._index.directory


def test_storage_that_fails_once_while_reading_costs_nothing(make_folder, photos, monkeypatch):
    path = make_folder({"train/a/0.jpg": jpeg(photos[0])})
    dataset, failing, stat = opened(path), [errno.ESTALE, errno.EIO], OpenFile.stat
    monkeypatch.setattr("pipelines.datasets.files._PAUSES", (0.0, 0.0))

    def twice(self):
        if failing:
            raise OSError(failing.pop(), "storage fails")
        return stat(self)

    monkeypatch.setattr(OpenFile, "stat", twice)
    assert dataset.read(0).tobytes() == jpeg(photos[0])


def test_what_can_be_read_by_now_is_no_longer_unreadable(make_folder, photos, tmp_path):
    """A link to a file that comes later, a file without permission, one that was empty."""
    path = make_folder({"train/a/0.jpg": jpeg(photos[0]), "train/a/1.jpg": b""})
    (path / "train/a/2.jpg").symlink_to(tmp_path / "mounted/2.jpg")
    before = opened(path)
    assert before.unreadable().tolist() == [1, 2]
    assert before.reason(2) == "cannot be read: No such file or directory"
    (tmp_path / "mounted").mkdir()
    (tmp_path / "mounted/2.jpg").write_bytes(jpeg(photos[2]))
    (path / "train/a/1.jpg").write_bytes(jpeg(photos[1]))
    dataset = opened(path)
    assert dataset.unreadable().tolist() == []
    images, _, substitutions = evaluated(dataset)
    assert substitutions == []
    for number in range(3):
        assert near(images[number], wanted(dataset, jpeg(photos[number])))


def test_a_changed_group_alone_is_read_again(make_folder, photos, monkeypatch):
    files = {f"train/{name}/{number}.jpg": jpeg(photos[number]) for name in "abc" for number in range(3)}
    path = make_folder(files | {"train/b/deep/9.jpg": jpeg(photos[9])})
    opened(path)
    read = []
    plain = pipelines.datasets.indexing._looked_at
    monkeypatch.setattr(
        pipelines.datasets.indexing,
        "_looked_at",
        lambda s, g, f: read.append(f"{s.groups[g]}/{f.name}") or plain(s, g, f),
    )
    make_folder({"train/aa/0.jpg": jpeg(photos[5]), "train/c/3.jpg": jpeg(photos[6])})
    after = opened(path)
    assert sorted(read) == ["aa/0.jpg", "c/0.jpg", "c/1.jpg", "c/2.jpg", "c/3.jpg"]
    monkeypatch.undo()
    names = [after.short_name(index) for index in range(len(after))]
    shutil.rmtree(path / ".index")
    afresh = opened(path)
    every = np.arange(len(afresh))
    assert names == [afresh.short_name(index) for index in every]
    assert after.entries(every).tolist() == afresh.entries(every).tolist()
    assert (after.classes, after._index.starts.tolist()) == (afresh.classes, afresh._index.starts.tolist())


def test_a_changed_nested_folder_and_a_removed_class_are_seen(make_folder, photos):
    files = {"train/a/deep/1.jpg": jpeg(photos[1]), "train/b/2.jpg": jpeg(photos[2]), "train/c/3.jpg": jpeg(photos[3])}
    path = make_folder(files)
    assert len(opened(path)) == 3
    (path / "train/a/deep/1.jpg").rename(path / "train/a/deep/one.jpg")
    assert opened(path).short_name(0) == "a/deep/one.jpg"
    shutil.rmtree(path / "train/b")
    dataset = opened(path)
    assert dataset.classes == ("a", "c")
    assert [dataset.short_name(index) for index in range(2)] == ["a/deep/one.jpg", "c/3.jpg"]


def test_old_indexes_are_removed_once_nobody_reads_them(make_folder, photos):
    path = make_folder({"train/a/1.jpg": jpeg(photos[1]), "val/a/1.jpg": jpeg(photos[2])})
    open_dataset(path, "val", progress=False)
    (path / ".index/train-of-another-version").mkdir()
    (path / ".index/train-of-another-version/meta.json").write_text('{"version": 2}')

    def indexes(split):
        return len(list((path / ".index").glob(f"{split}-*")))

    reader = opened(path)
    assert (indexes("train"), indexes("val")) == (1, 1)
    make_folder({"train/a/2.jpg": jpeg(photos[2])})
    assert len(opened(path)) == 2
    assert indexes("train") == 2
    assert reader.short_name(0) == "a/1.jpg"
    del reader
    make_folder({"train/a/3.jpg": jpeg(photos[3])})
    assert len(opened(path)) == 3
    assert (indexes("train"), indexes("val")) == (1, 1)


def test_an_index_read_anew_outranks_the_one_that_was_there(make_folder, photos):
    path = make_folder({"train/a/1.jpg": jpeg(photos[1])})
    opened(path)
    (path / "train/a/1.jpg").write_bytes(jpeg(photos[2].resize((50, 40))))
    opened(path, renew=True)
    assert opened(path).sizes(np.array([0])).tolist() == [[50, 40]]
    assert len(list((path / ".index").glob("train-*"))) == 1


def test_a_shard_that_changes_while_in_use_gives_named_samples(tmp_path, photos, backend):
    """Written over in place, with a shorter one: of a mapped file the next look would end the process."""
    members = {f"a/{number}.jpg": jpeg(photos[number]) for number in range(8)}
    (tmp_path / "data").mkdir()
    shard(tmp_path / "data/train-0.tar", members)
    dataset = opened(tmp_path / "data")
    assert evaluated(dataset, backend)[1].tolist() == [0] * 8
    cut = int(dataset.entries(np.array([4]))["place"][0]) + 100
    with (tmp_path / "data/train-0.tar").open("r+b") as file:
        file.truncate(cut)
    images, labels, substitutions = evaluated(dataset, backend, on_error="skip")
    there = [0, 1, 2, 3]
    assert [number for number in range(8) if labels[number] >= 0] == there
    assert all(near(images[number], wanted(dataset, members[f"a/{number}.jpg"])) for number in there)
    assert {reason for _, reason in substitutions} == {
        "its file is shorter than when it was indexed: it changed while in use"
    }
    assert [name.rpartition("/")[2] for name, _ in substitutions] == [f"{n}.jpg" for n in range(8) if n not in there]


def test_another_image_in_a_samples_place_is_a_named_sample(tmp_path, photos, backend):
    (tmp_path / "data").mkdir()
    shard(tmp_path / "data/train-0.tar", {f"a/{number}.jpg": jpeg(photos[number]) for number in range(4)})
    dataset = opened(tmp_path / "data")
    shard(tmp_path / "data/train-0.tar", {f"a/{number}.jpg": jpeg(photos[9].resize((99, 98))) for number in range(4)})
    _, labels, substitutions = evaluated(dataset, backend, on_error="skip")
    assert labels.tolist() == [-1] * 4
    assert len(substitutions) == 4
    assert len(opened(tmp_path / "data")) == 4
    assert opened(tmp_path / "data").sizes(np.array([0])).tolist() == [[99, 98]]


def test_a_touched_shard_goes_on(tmp_path, photos, backend):
    (tmp_path / "data").mkdir()
    shard(tmp_path / "data/train-0.tar", {f"a/{number}.jpg": jpeg(photos[number]) for number in range(4)})
    dataset = opened(tmp_path / "data")
    before, *_ = evaluated(dataset, backend)
    os.utime(tmp_path / "data/train-0.tar", (1, 1))
    after, labels, substitutions = evaluated(dataset, backend)
    assert substitutions == []
    assert labels.tolist() == [0] * 4
    assert near(before, after)


def test_many_files_share_few_descriptors(tmp_path):
    files = OpenFiles(3)
    for number in range(9):
        (tmp_path / str(number)).write_text(str(number))
    held = files.get(f"{tmp_path}/0")
    for number in range(9):
        assert os.pread(files.get(f"{tmp_path}/{number}").descriptor, 9, 0) == str(number).encode()
    assert len(files) == 3
    assert os.pread(held.descriptor, 9, 0) == b"0"  # whoever holds a file keeps it open


def test_where_files_are_short_some_are_closed(tmp_path, monkeypatch):
    files, left = OpenFiles(100), [2]

    class Short(OpenFile):
        def __init__(self, path):
            if len(files) >= left[0]:
                raise OSError(errno.EMFILE, "Too many open files")
            super().__init__(path)

    monkeypatch.setattr("pipelines.datasets.files.OpenFile", Short)
    for number in range(5):
        (tmp_path / str(number)).write_text(str(number))
        assert os.pread(files.get(f"{tmp_path}/{number}").descriptor, 9, 0) == str(number).encode()


def test_processes_index_what_threads_do(make_folder, odd_images, photos, tmp_path, monkeypatch):
    folders = make_folder({f"train/{name}/{kind}.jpg": odd_images[kind] for name in "abcde" for kind in odd_images})
    make_folder({"train/b/deep/er/1.jpg": b"", "train/e/2.jpg": b"no image"})
    shards = tmp_path / "shards"
    shards.mkdir()
    for number in range(5):
        shard(shards / f"train-{number}.tar", {f"c{n % 3}/{number}-{n}.jpg": jpeg(photos[n]) for n in range(9)})
    for path in (folders, shards):
        threads = opened(path)
        every = np.arange(len(threads))
        shutil.rmtree(path / ".index")
        with monkeypatch.context() as patch:
            patch.setattr(pipelines.datasets.indexing, "_FEW", 1)
            patch.setattr(pipelines.datasets.indexing, "usable_cores", lambda: 3)
            processes = opened(path)
        assert processes.entries(every).tolist() == threads.entries(every).tolist()
        assert [processes.short_name(n) for n in every] == [threads.short_name(n) for n in every]
        assert processes.classes == threads.classes
        assert processes._index.beside == threads._index.beside


def test_what_a_process_finds_wrong_is_said(tmp_path, photos, monkeypatch):
    for number in range(4):
        shard(tmp_path / f"train-{number}.tar", {"a/1.jpg": jpeg(photos[1])})
    (tmp_path / "train-3.tar").write_bytes(b"no tar" * 999)
    monkeypatch.setattr(pipelines.datasets.indexing, "_FEW", 1)
    monkeypatch.setattr(pipelines.datasets.indexing, "usable_cores", lambda: 2)
    with pytest.raises(DataError, match=r"train-3\.tar"):
        opened(tmp_path)


def test_there_may_be_more_classes_than_two_bytes_count(tmp_path, photos):
    """70,000 class folders, of which only the index is made."""
    (tmp_path / "train/c65536").mkdir(parents=True)
    (tmp_path / "train/c65536/1.jpg").write_bytes(jpeg(photos[0]))
    classes = [f"c{number:05}" for number in range(70_000)]
    source = Folders(tmp_path / "train", "train", classes)
    state = [[name, 0] for name in classes]
    header = Header(*photos[0].size, 1, Flag(0))

    def rows():
        for group, name in enumerate(classes):
            yield group, made_part(group, [(Found("1.jpg", name, 0, 1), 0, header)])
            yield group, Aside({}, {})

    write_rows(source, state, tmp_path, "train", rows())
    (directory,) = tmp_path.glob("train-*")
    dataset = Dataset(source, _load(directory))
    assert len(dataset.classes) == len(dataset) == 70_000
    assert dataset.labels(np.array([0, 65_535, 65_536, 69_999])).tolist() == [0, 65_535, 65_536, 69_999]
    assert dataset.short_name(69_999) == "c69999/1.jpg"
    assert dataset.read(65_536).tobytes() == jpeg(photos[0])


def test_a_dataset_that_is_collected_while_a_file_is_opened_is_forgotten_at_once(tmp_path, monkeypatch):
    """The collection is of the thread that opens, whatever it has locked: it would wait for itself."""
    for name in ("kept", "gone"):
        (tmp_path / name).write_bytes(name.encode())
    files, in_truth = OpenFiles(4), pipelines.datasets.files.open_regular
    files.get(str(tmp_path / "gone"))

    def opened(path: str) -> int:
        files.forget(str(tmp_path / "gone"))
        return in_truth(path)

    monkeypatch.setattr(pipelines.datasets.files, "open_regular", opened)
    kept = files.get(str(tmp_path / "kept"))
    assert len(files) == 1
    assert files.get(str(tmp_path / "kept")) is kept
