"""The index: what it holds, where it lives, and that it is built once whatever happens meanwhile."""

import errno
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import pipelines.datasets.index
import tars
from pipelines import DataError, TrainPlan, open_dataset
from pipelines.datasets.folders import Folders
from pipelines.datasets.image_headers import Flag
from pipelines.datasets.index_writing import VERSION
from pipelines.datasets.indexing import ENTRY
from waiting import IN_A_THREAD, in_a_thread, wait_until

ROOT = __file__.rpartition("/tests/")[0]


def opened(path, split="train", **options):
    return open_dataset(path, split, progress=False, **options)


def test_it_holds_label_place_size_shape_orientation_and_flags(make_folder, odd_images, photos):
    files = {f"train/{label}/{name}.jpg": data for label in ("a", "b") for name, data in odd_images.items()}
    dataset = opened(make_folder(files | {"train/a/notes.txt": b"no image"}))
    assert len(dataset) == 2 * len(odd_images)
    everything = np.arange(len(dataset))
    names = [dataset.short_name(index) for index in everything]
    assert names == sorted(path.removeprefix("train/") for path in files)
    assert dataset.labels(everything).tolist() == [0] * len(odd_images) + [1] * len(odd_images)
    assert {tuple(size) for size in dataset.sizes(everything)} == {photos[4].size}
    flags, orientations = dataset.flags(everything)
    by_name = {name: (flag, orientation) for name, flag, orientation in zip(names, flags, orientations)}
    assert by_name["a/plain.jpg"] == (0, 1)
    assert by_name["b/gray.jpg"] == (Flag.GRAY, 1)
    assert by_name["a/cmyk.jpg"] == (Flag.CMYK, 1)
    assert by_name["a/progressive.jpg"] == (Flag.PROGRESSIVE, 1)
    assert by_name["a/png.jpg"] == (Flag.NOT_JPEG, 1)
    assert [by_name[f"a/rotated{value}.jpg"][1] for value in range(1, 9)] == list(range(1, 9))
    for index in everything:
        assert dataset.read(index).tobytes() == files[f"train/{names[index]}"]


def test_it_is_found_again_and_memory_mapped(make_folder, odd_images, monkeypatch):
    path = make_folder({f"train/a/{name}.jpg": data for name, data in odd_images.items()})
    opened(path)
    monkeypatch.setattr(pipelines.datasets.index, "write_index", lambda *_: pytest.fail("built twice"))
    assert isinstance(opened(path)._index.entries, np.memmap)


def test_a_million_entries_cost_little_memory(tmp_path):
    count, name = 1_281_167, b"n01440764_10026.JPEG\0"
    (tmp_path / "train").mkdir()
    entries = np.zeros(count, ENTRY)
    entries["name"] = np.arange(count) * len(name)
    entries["label"] = np.arange(count) // 1300
    entries["width"], entries["height"] = 500, 375
    entries.tofile(tmp_path / "entries.bin")
    (tmp_path / "names.bin").write_bytes(name * count)
    classes = [f"n{number:08d}" for number in range(1000)]
    meta = {"version": VERSION, "count": count, "names": len(name) * count, "classes": classes, "starts": [0, count]}
    (tmp_path / "meta.json").write_text(json.dumps(meta | {"unreadable": 0, "beside": {}, "state": [["n01440764", 0]]}))
    code = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from pipelines import TrainPlan\n"
        "from pipelines.datasets.dataset import Dataset\n"
        "from pipelines.datasets.index import _load\n"
        "from pipelines.datasets.folders import Folders\n"
        "def its_own():\n"
        "    lines = Path('/proc/self/status').read_text().splitlines()\n"
        "    return int(next(line for line in lines if line.startswith('RssAnon')).split()[1]) / 1024\n"
        "root = Path(sys.argv[1]); source = Folders(root / 'train', 'train', ['n01440764'])\n"
        "before = its_own()\n"
        "dataset = Dataset(source, _load(root))\n"
        "plan = TrainPlan(len(dataset), 1024)\n"
        "for batch in range(plan.batches):\n"
        "    indices = plan.indices(0, batch)\n"
        "    plan.boxes(0, indices, dataset.sizes(indices)); dataset.labels(indices); plan.flips(0, indices)\n"
        "    dataset.short_name(int(indices[0]))\n"
        "print(its_own() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 16  # the entries are mapped: all processes of a machine share them


def test_a_changed_dataset_gets_a_new_index_and_readers_keep_theirs(make_folder, odd_images):
    path = make_folder({"train/a/1.jpg": odd_images["plain"], "train/a/deep/2.jpg": odd_images["gray"]})
    before = opened(path)
    make_folder({"train/a/deep/3.jpg": odd_images["progressive"]})
    after = opened(path)
    assert (len(before), len(after)) == (2, 3)
    assert before._index.directory != after._index.directory
    assert [before.short_name(index) for index in range(2)] == ["a/1.jpg", "a/deep/2.jpg"]


def test_headers_are_read_in_parallel(make_folder, odd_images, monkeypatch):
    path = make_folder({f"train/a/{number}.jpg": odd_images["plain"] for number in range(8)})
    monkeypatch.setattr(pipelines.datasets.indexing, "_CHUNK", 1)
    together = threading.Barrier(4)
    plain = Folders.opened

    def all_at_once(*arguments):
        together.wait(IN_A_THREAD)  # passes only when four threads are here
        return plain(*arguments)

    monkeypatch.setattr(Folders, "opened", all_at_once)
    assert len(opened(path)) == 8


@pytest.fixture
def builds(monkeypatch, capfd):
    """``builds(others)``: a build from now on waits until so many others wait for it; the list of all builds."""

    def arrange(others: int) -> list:
        builds, build, said = [], pipelines.datasets.index.write_index, []

        def all_are_waiting() -> bool:
            said.append(capfd.readouterr().err)
            return "".join(said).count("waiting for another process") == others

        def slow(*arguments):
            builds.append(arguments)
            wait_until(all_are_waiting, lambda: "".join(said), in_a_thread())
            build(*arguments)

        monkeypatch.setattr(pipelines.datasets.index, "write_index", slow)
        return builds

    return arrange


def test_one_builds_while_the_others_wait(make_folder, odd_images, builds):
    path = make_folder({"train/a/1.jpg": odd_images["plain"]})
    built = builds(others=2)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: open_dataset(path, "train"), range(3)))
    assert [len(dataset) for dataset in found] == [1, 1, 1]
    assert len(built) == 1


def test_those_who_wait_fail_with_the_builders_reason(make_folder, builds):
    path = make_folder({"train/a/notes.txt": b"", "train/b/notes.txt": b""})
    built = builds(others=1)

    def message(_):
        with pytest.raises(DataError) as raised:
            open_dataset(path, "train")
        return str(raised.value)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(message, range(2))
    assert first == second
    assert "class folder" in first
    assert len(built) == 1


def test_a_killed_build_starts_again(make_folder, odd_images):
    path = make_folder({f"train/a/{number}.jpg": odd_images["plain"] for number in range(600)})
    code = (
        "import os, signal, sys, pipelines.datasets.index_writing\n"
        "from pipelines import open_dataset\n"
        "write, calls = pipelines.datasets.index_writing._Writer._write, []\n"
        "def killed(*arguments):\n"
        "    write(*arguments); calls.append(1)\n"
        "    if len(calls) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "pipelines.datasets.index_writing._Writer._write = killed\n"
        "open_dataset(sys.argv[1], 'train', progress=False)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True)
    assert killed.returncode == -9
    assert len(list((path / ".index").glob(".*.tmp"))) == 1
    assert len(opened(path)) == 600
    assert not list((path / ".index").glob(".*.tmp"))


def test_beside_read_only_data_the_users_cache_holds_it(make_folder, odd_images, tmp_path, monkeypatch):
    path = make_folder({"train/a/1.jpg": odd_images["plain"], ".index": b"in the way, so that no folder can be made"})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert opened(path)._index.directory.is_relative_to(tmp_path / "cache")
    monkeypatch.setattr(pipelines.datasets.index, "write_index", lambda *_: pytest.fail("built twice"))
    assert len(opened(path)) == 1


def test_an_index_that_storage_does_not_give_is_not_called_damaged(make_folder, odd_images, monkeypatch):
    path = make_folder({"train/a/1.jpg": odd_images["plain"]})
    opened(path)

    def failing(*arguments, **options):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(np, "memmap", failing)
    with pytest.raises(DataError, match=r"index .* cannot be read: Input/output error; start again when the storage"):
        opened(path)


def test_an_index_that_cannot_be_read_back_goes_to_the_next_place(
    make_folder, odd_images, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = make_folder({"train/a/1.jpg": odd_images["plain"]})
    opener = pipelines.datasets.index.OpenFile

    def refused(file: str):
        if file.startswith(str(path / ".index")):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), file)
        return opener(file)

    monkeypatch.setattr(pipelines.datasets.index, "OpenFile", refused)
    read_bytes = Path.read_bytes
    monkeypatch.setattr(
        Path,
        "read_bytes",
        lambda file: refused(str(file)) if file.is_relative_to(path / ".index") else read_bytes(file),
    )
    dataset = open_dataset(path, "train", progress=True)
    assert not dataset._index.directory.is_relative_to(path)
    assert f"{path}/.index (Permission denied) cannot be written; it is kept in" in capsys.readouterr().err


def test_a_damaged_index_says_which_directory_to_delete(make_folder, odd_images):
    path = make_folder({"train/a/1.jpg": odd_images["plain"], "train/a/2.jpg": odd_images["gray"]})
    directory = opened(path)._index.directory
    (directory / "entries.bin").write_bytes(b"\0" * ENTRY.itemsize)
    with pytest.raises(DataError, match=r"is damaged \(its files are cut off\); delete that directory"):
        opened(path)


@pytest.mark.parametrize(
    "change", [{"starts": []}, {"starts": [0, 1]}, {"state": []}, {"beside": 3}, {"count": "2"}, "classes"]
)
def test_a_damaged_description_of_an_index_is_no_traceback(make_folder, odd_images, change):
    path = make_folder({"train/a/1.jpg": odd_images["plain"], "train/a/2.jpg": odd_images["gray"]})
    description = opened(path)._index.directory / "meta.json"
    meta = json.loads(description.read_text())
    if isinstance(change, dict):
        meta |= change
    else:
        del meta[change]
    description.write_text(json.dumps(meta))
    with pytest.raises(DataError, match=r"is damaged \(.*\); delete that directory"):
        opened(path)


def test_shards_and_folders_of_the_same_files_are_the_same_dataset(sample_val, tmp_path):
    tars.unpack(sample_val.path + "/val-000.tar", tmp_path / "val")
    folders = opened(tmp_path, "val")
    assert folders.classes == sample_val.classes

    def content(dataset):
        everything = np.arange(len(dataset))
        labels, sizes = dataset.labels(everything), dataset.sizes(everything).tolist()
        return sorted((int(labels[index]), sizes[index], dataset.read(index).tobytes()) for index in everything)

    assert content(folders) == content(sample_val)


def test_a_cls_member_names_the_class_of_a_sample(tmp_path, odd_images):
    import io
    import tarfile

    with tarfile.open(tmp_path / "train-0.tar", "w") as shard:
        for name, data in (("x1.jpg", odd_images["plain"]), ("x1.cls", b"dog\n"), ("x2.cls", b"cat"), ("x2.jpg", b"?")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))
    dataset = opened(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert dataset.labels(np.arange(2)).tolist() == [1, 0]
    assert dataset.unreadable().tolist() == [1]
    assert dataset.name(1) == f"{tmp_path}/train-0.tar:x2.jpg"


def test_the_index_survives_positions_with_a_quarantine(make_folder, odd_images):
    names = [f"a/{number}.jpg" for number in range(9)]
    path = make_folder(
        {f"train/{name}": odd_images["plain"] for name in names} | {"bad.txt": b"# why\na/0.jpg\na/4.jpg\n\na/8.jpg\n"}
    )
    dataset = opened(path, quarantine=path / "bad.txt")
    assert [dataset.short_name(index) for index in range(len(dataset))] == [n for n in names if n[2] not in "048"]
    assert TrainPlan(len(dataset), 2).batches == 3


def test_an_index_of_a_changed_nested_folder_is_not_taken(make_folder, odd_images):
    path = make_folder({"train/a/deep/1.jpg": odd_images["plain"]})
    before = opened(path)
    make_folder({"train/a/deep/2.jpg": odd_images["plain"]})
    assert len(opened(path)) == 2
    assert before.fingerprint != opened(path).fingerprint
