"""Datasets as they are found: in every form, with what systems and programs leave among images, and damaged."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import tarfile
import unicodedata
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from archives import picture
from pipelines import open_dataset
from pipelines.preparing.beton_writer import write_beton
from pipelines.support.work_sharing import Processes
from tars import archive

CLASSES = ("cat", "dog", "fox")
EACH = {"train": 6, "val": 3}
_MAC = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(100)


def images(split: str) -> Iterable[tuple[str, str, bytes]]:
    """(class, stem, JPEG) of each image of a split, no two alike."""
    for place, label in enumerate(CLASSES):
        for number in range(EACH[split]):
            yield label, f"{label}_{number:03}", picture(1000 * (split == "val") + 100 * place + number)


def write(file: Path, content: bytes | str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)


def folders(root: Path, splits: Iterable[str] = ("train", "val"), name: str = "{split}/{label}/{stem}.jpg") -> None:
    for split in splits:
        for label, stem, data in images(split):
            write(root / name.format(split=split, label=label, stem=stem), data)


def shards(root: Path, members: Callable[[str, str, bytes], list], name: str = "{split}-{part:06}.tar", **how) -> None:
    """Two shards a split, whose samples are what `members` makes of (class, stem, JPEG)."""
    for split in EACH:
        samples = [members(*image) for image in images(split)]
        for part in range(2):
            content = [member for sample in samples[part::2] for member in sample]
            write(root / name.format(split=split, part=part), archive(content, **how))


def renamed(path: Path, name: str) -> None:
    path.rename(path.with_name(name))


def packed(label: str, stem: str, data: bytes) -> list:
    return [(f"{label}/{stem}.jpg", data)]


def with_class(label: str, stem: str, data: bytes) -> list:
    return [(f"{stem}.cls", b"%d" % CLASSES.index(label)), (f"{stem}.jpg", data)]


def _first_shard(root: Path) -> Path:
    return root / "train-000000.tar"


def _changed(root: Path, change: Callable[[bytearray, list[tarfile.TarInfo]], None]) -> None:
    shards(root, with_class)
    with tarfile.open(_first_shard(root)) as tar:
        members = tar.getmembers()
    data = bytearray(_first_shard(root).read_bytes())
    change(data, members)
    _first_shard(root).write_bytes(data)


def _flipped(data: bytearray, members: list[tarfile.TarInfo]) -> None:
    data[members[5].offset + 3] ^= 1


def _zeroed(data: bytearray, members: list[tarfile.TarInfo]) -> None:
    data[members[5].offset : members[5].offset + 512] = bytes(512)


def _cut(by: int) -> Callable[[bytearray, list[tarfile.TarInfo]], None]:
    def cut(data: bytearray, members: list[tarfile.TarInfo]) -> None:
        del data[members[5].offset + by :]

    return cut


def _two_damaged(root: Path) -> None:
    _changed(root, _flipped)
    data = bytearray((root / "train-000001.tar").read_bytes())
    data[-1024:] = b"log line\n"
    (root / "train-000001.tar").write_bytes(data)


def _socket(file: Path) -> None:
    where = os.open(file.parent, os.O_RDONLY)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{where}/{file.name}")
    os.close(where)


def _truncated(file: Path) -> None:
    with file.open("r+b") as beton:
        beton.truncate(file.stat().st_size - 100)


def _appended(file: Path, text: str) -> None:
    with file.open("a") as out:
        out.write(text)


# ---- forms: what is made; and, where that is not the folder alone, which options name it --------------------------------


def _kaggle(root: Path) -> None:
    top = root / "ILSVRC/Data/CLS-LOC"
    ids = {"cat": "n02123045", "dog": "n02085620", "fox": "n02119789"}
    rows = ["ImageId,PredictionString"]
    for label, stem, data in images("train"):
        write(top / "train" / ids[label] / f"{stem}.JPEG", data)
    for label, stem, data in images("val"):
        write(top / "val" / f"{stem}.JPEG", data)
        rows.append(f"{stem},{ids[label]} 1 2 3 4")
    write(root / "LOC_val_solution.csv", "\n".join(rows))


def _listed(root: Path) -> None:
    for split in EACH:
        rows = ["path,label"]
        for label, stem, data in images(split):
            write(root / split / f"{stem}.jpg", data)
            rows.append(f"{split}/{stem}.jpg,{label}")
        write(root / f"{split}.csv", "\n".join([*rows, f"{split}/gone.jpg,cat"]))
        write(root / split / "unlisted.jpg", picture(5000))


def _with_junk(root: Path) -> None:
    folders(root)
    for split in EACH:
        for name in ("._a.jpg", ".DS_Store", "Thumbs.db", "@eaDir/a.jpg", "notes.txt", "x.heic", "noname", ".x.jpg"):
            write(root / split / "cat" / name, _MAC)
        write(root / split / "stray.jpg", picture(5000))
        os.mkfifo(root / split / "cat/pipe.jpg")


def _linked(root: Path) -> None:
    folders(root)
    for split in EACH:
        (root / split / "cat/again.jpg").symlink_to("cat_000.jpg")
        os.link(root / split / "dog/dog_000.jpg", root / split / "dog/twin.jpg")
        (root / split / "fox/up").symlink_to(".")


def _linked_shards(root: Path) -> None:
    def members(label: str, stem: str, data: bytes) -> list:
        name = f"{label}/{stem}.jpg"
        twin, far = (tarfile.LNKTYPE, name), (tarfile.SYMTYPE, f"../{name}")
        return [(name, data), (f"{label}/copy_{stem}.jpg", twin), (f"{label}/far_{stem}.jpg", far)]

    shards(root, members)


def _mac_shards(root: Path) -> None:
    def members(label: str, stem: str, data: bytes) -> list:
        junk = [(f"._{stem}.cls", _MAC), (f"._{stem}.jpg", _MAC)]
        return [*junk, *with_class(label, stem, data)]

    shards(root, members, form="pax", pax_headers={"LIBARCHIVE.xattr.com.apple.quarantine": "x"})


def _repeated(root: Path) -> None:
    shards(root, packed)
    for shard in root.glob("*.tar"):
        with tarfile.open(shard, "a") as tar:
            tar.addfile(*_as_member("cat/cat_000.jpg", picture(7000)))
            tar.addfile(*_as_member("cat/new.jpg", picture(7001)))


def _as_member(name: str, data: bytes) -> tuple[tarfile.TarInfo, io.BytesIO]:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    return member, io.BytesIO(data)


def _joined(root: Path) -> None:
    shards(root, packed)
    for split in EACH:
        whole = b"".join(shard.read_bytes() for shard in sorted(root.glob(f"{split}-*.tar")))
        for shard in root.glob(f"{split}-*.tar"):
            shard.unlink()
        write(root / f"{split}.tar", whole)


def _sparse(root: Path) -> None:
    for split in EACH:
        folders(root / "in", [split])
        place = root / "in" / split / "cat/holes.jpg"
        with place.open("wb") as file:
            file.write(picture(1))
            file.truncate(1 << 20)
        command = ["tar", "--sparse", "-cf", root / f"{split}-0.tar", "-C", root / "in" / split, "."]
        subprocess.run(command, check=True)
    subprocess.run(["rm", "-r", root / "in"], check=True)


def _bad_images(root: Path) -> None:
    folders(root)
    for split in EACH:
        write(root / split / "cat/empty.jpg", b"")
        write(root / split / "cat/text.jpg", b"<html>404 not found</html>\n" * 20)


def _apart(root: Path) -> dict[str, str]:
    folders(root / "first", ["train"])
    folders(root / "second", ["val"])
    return {"train": f"{root}/first/train", "val": f"{root}/second/val"}


def _named_by_patterns(root: Path) -> dict[str, str]:
    shards(root, with_class, "some-{split}-{part:04}.tar")
    return {"train": f"{root}/some-train-{{0000..0001}}.tar", "val": f"{root}/some-[v]al-*.tar"}


def _listed_apart(root: Path, separator: str = ";", end: str = "\r\n") -> dict[str, str]:
    for split in EACH:
        rows = [separator.join(("label", "file_name"))]
        for label, stem, data in images(split):
            write(root / "pictures" / split / f"{stem} 1.jpg", data)
            rows.append(separator.join((label, f'"{split}/{stem} 1.jpg"')))
        write(root / "pictures" / f"{split} list.csv", "\ufeff" + end.join(rows) + end)
    return {split: f"{root}/pictures/{split} list.csv" for split in EACH}


def _listed_oddly(root: Path) -> None:
    for split in EACH:
        rows = ["# made by hand", "path,label"]
        for label, stem, data in images(split):
            name = f'{split}/#{stem}, "a"\u2028\x85.jpg'
            write(root / name, data)
            quoted = name.replace('"', '""')
            rows += [f'"{quoted}","a {label}, perhaps"', f"# {name},owl"]
        write(root / f"{split}.csv", "\ufeff" + "\r\n".join([*rows, f"{split}/gone.jpg,cat"]))


def _with_dots(root: Path) -> None:
    shards(root, lambda label, stem, data: [(f"img.{stem}.jpg", data), (f"img.{stem}.cls", label.encode())])


def _held_out(root: Path) -> dict[str, str]:
    folders(root, ["train"], "{label}/{stem}.jpg")
    return {"held_out": "0.34"}


def _in_another_order(root: Path) -> dict[str, str]:
    shards(root, with_names)
    write(root.parent / "classes.txt", "fox\ncat\ndog\n")
    return {"classes": f"{root.parent}/classes.txt"}


def with_names(label: str, stem: str, data: bytes) -> list:
    return [(f"{stem}.jpg", data), (f"{stem}.label.cls", label.encode())]


def _alike(root: Path) -> None:
    folders(root)
    for split, form in (("train", "NFC"), ("val", "NFD")):
        (root / split / "fox").rename(root / split / unicodedata.normalize(form, "f\u00f6x"))


def _numbered(root: Path) -> None:
    folders(root)
    for split in EACH:
        for number, label in zip((1, 10, 2), CLASSES):
            (root / split / label).rename(root / split / str(number))


def _odd_names(root: Path) -> None:
    folders(root, name="{split}/{label}/{stem} 'a' \"b\"\n\u4e2d;x,y.JPG")
    for split in EACH:
        write(root / split / "cat" / ("x" * 250 + ".jpg"), picture(7002))


def _in_betons(root: Path) -> None:
    folders(root / "made")
    for split in EACH:
        opener = partial(open_dataset, root / "made", split, progress=False)
        write_beton(opener, root / f"{split}_500_0.50_90.ffcv", Processes(1))
    subprocess.run(["rm", "-r", root / "made"], check=True)


def as_json(label: str, stem: str, data: bytes) -> list:
    fields = {"label": float(CLASSES.index(label)), "class_name": label}
    return [(f"{stem}.JPEG", data), (f"{stem}.json", json.dumps(fields).encode())]


FORMS: dict[str, Callable[[Path], dict[str, str] | None]] = {
    "class folders": folders,
    "other endings": lambda root: folders(root, name="{split}/{label}/{stem}.jfif"),
    "nested folders": lambda root: folders(root, name="{split}/{label}/images/{stem}.JPG"),
    "called validation": lambda root: folders(root) or renamed(root / "val", "validation"),
    "folders with junk": _with_junk,
    "folders with links": _linked,
    "folders of all": lambda root: folders(root, ["train"], "{label}/{stem}.jpg"),
    "Kaggle's ImageNet": _kaggle,
    "lists": _listed,
    "lists with all that a line may hold": _listed_oddly,
    "shards with .cls": lambda root: shards(root, with_class),
    "shards of folders": lambda root: shards(root, packed),
    "shards with a leading folder": lambda root: shards(
        root, lambda label, stem, data: packed(f"imagenet/x/{label}", stem, data)
    ),
    "shards in folders": lambda root: shards(root, with_class, "{split}/imagenet1k-{split}-{part:04}.tar"),
    "shards from a Mac": _mac_shards,
    "shards with links": _linked_shards,
    "shards with names that come again": _repeated,
    "shards joined by cat": _joined,
    "shards with holes": _sparse,
    "shards whose names hold dots": _with_dots,
    "shards with classes alone in .json": lambda root: shards(
        root, lambda label, stem, data: [(f"{stem}.jpg", data), (f"{stem}.json", json.dumps([label]).encode())]
    ),
    "shards with .json": lambda root: shards(root, as_json),
    "shards with a gap in their numbers": lambda root: shards(root, with_class, "{split}-00{part}4.tar"),
    "splits apart": _apart,
    "shards by patterns": _named_by_patterns,
    "lists apart": _listed_apart,
    "classes in another order": _in_another_order,
    "a third held out": _held_out,
    "names that look alike": _alike,
    "numbered folders": _numbered,
    "names with all that a name may hold": _odd_names,
    "FFCV's files": _in_betons,
    "images that cannot be read": _bad_images,
}

DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a flipped bit": (lambda root: _changed(root, _flipped), r"train-000000.tar is damaged .* at byte 8,192"),
    "a zeroed header": (lambda root: _changed(root, _zeroed), r"train-000000.tar is damaged .* at byte 8,192"),
    "cut between members": (lambda root: _changed(root, _cut(0)), r"train-000000.tar is damaged .* at byte 8,192"),
    "cut in a header": (lambda root: _changed(root, _cut(100)), r"train-000000.tar is damaged .* at byte 8,192"),
    "cut in an image": (lambda root: _changed(root, _cut(600)), r"train-000000.tar is damaged .* at byte 8,192"),
    "something behind the end": (
        lambda root: _changed(root, lambda data, _: data.extend(b"log line\n")),
        r"train-000000.tar is damaged .* behind its end",
    ),
    "no class": (
        lambda root: shards(root, lambda label, stem, data: [(f"{stem}.jpg", data)]),
        r"train-000000.tar:cat_000.jpg has no class",
    ),
    "classes in part": (
        lambda root: shards(root, lambda label, stem, data: (packed if label == "dog" else with_class)(label, stem, data)),
        r"some samples have a label of their own",
    ),
    "compressed": (lambda root: write(root / "train-000000.tar.gz", b"\x1f\x8b"), r"train-000000.tar.gz is compressed"),
    "two damaged shards": (
        _two_damaged,
        r"train-000000.tar is damaged",
    ),
    "a pipe called a shard": (lambda root: (shards(root, with_class), os.mkfifo(root / "train-000002.tar")),
                              r"train-000002.tar is a pipe"),
    "a socket called a shard": (lambda root: (shards(root, with_class), _socket(root / "train-000002.tar")),
                                r"train-000002.tar is a socket"),
    "a device called a shard": (
        lambda root: (shards(root, with_class), (root / "train-000002.tar").symlink_to("/dev/zero")),
        r"train-000002.tar is a device",
    ),
    "a folder called a shard": (lambda root: (shards(root, with_class), (root / "train-000002.tar").mkdir()),
                                r"train-000002.tar is a folder"),
    "a pipe called a list": (lambda root: (folders(root, ["val"]), os.mkfifo(root / "train.csv")), r"train.csv is a pipe"),
    "a pipe called a .beton": (lambda root: (folders(root, ["val"]), os.mkfifo(root / "train.beton")),
                               r"train.beton is a pipe"),
    "a link to itself called a shard": (
        lambda root: (shards(root, with_class), (root / "train-000002.tar").symlink_to("train-000002.tar")),
        r"train-000002.tar cannot be read: Too many levels",
    ),
    "a .beton cut off": (
        lambda root: (_in_betons(root), _truncated(root / "train_500_0.50_90.ffcv")),
        r"train_500_0.50_90.ffcv does not hold all",
    ),
    "an image of two labels": (
        lambda root: (_listed(root), _appended(root / "train.csv", "\ntrain/cat_000.jpg,dog\n")),
        r"train.csv, line \d+: train/cat_000.jpg is listed as 'cat' and 'dog'",
    ),
    "a row without a label": (
        lambda root: (_listed(root), _appended(root / "train.csv", "\ntrain/cat_000.jpg\n")),
        r"train.csv, line \d+: expected a path and a label",
    ),
    "a negative label": (
        lambda root: shards(root, lambda label, stem, data: [(f"{stem}.cls", b"-1"), (f"{stem}.jpg", data)]),
        r"has the label -1",
    ),
    "a quote that is not closed": (
        lambda root: (_listed(root), _appended(root / "train.csv", '\n"train/dog_000.jpg,dog\ntrain/dog_001.jpg,dog\n')),
        r"train.csv, line \d+: expected a path and a label, got '\"train/dog_000.jpg,dog'",
    ),
    "an image of two classes": (
        lambda root: shards(root, lambda label, stem, data: [*with_class(label, stem, data), (f"{stem}.label", b"7")]),
        r"cat_000.jpg has two classes: cat_000.cls says '0' and cat_000.label '7'; keep one",
    ),
    "an image without a class among others": (
        lambda root: shards(root, lambda label, stem, data: [(f"a.{stem}.jpg", data)]
                            + [(f"a.{stem}.cls", label.encode())] * (stem != "dog_001")),
        r"a.dog_001.jpg has no class",
    ),
    "a .json nested too deep": (
        lambda root: shards(root, lambda label, stem, data: [(f"{stem}.jpg", data), (f"{stem}.json", b"[" * 100_000)]),
        r"train-000000.tar:cat_000.json is damaged",
    ),
    "a class that is no text": (
        lambda root: shards(root, lambda label, stem, data: [
            (f"{stem}.jpg", data), (f"{stem}.json", b'{"label": "%s\\ud800"}' % label.encode())]),
        r"holds class .* which is no text; rename it",
    ),
    "a name with a zero byte": (
        lambda root: shards(root, with_class, form="pax", pax_headers={"path": "cat/1\0.jpg"}),
        r"train-000000.tar is damaged .* at byte 0: a name holds a zero byte",
    ),
    "a shard of no bytes": (
        lambda root: (shards(root, with_class), write(root / "train-000002.tar", b"")),
        r"train-000002.tar is damaged .* at byte 0: it is cut off",
    ),
    "a split twice": (
        lambda root: (folders(root), write(root / "Train/owl/1.jpg", picture(1))),
        r"holds the 'train' split more than once \(Train/ and train/\)",
    ),
    "shards among class folders": (
        lambda root: (folders(root), write(root / "train/1.tar", archive({"1.jpg": picture(1), "1.cls": b"1"}))),
        r"train holds tar shards and class folders of images \(cat\); keep one",
    ),
    "an empty class": (lambda root: (folders(root), (root / "train/owl").mkdir()), r"class folder .*owl holds no images"),
}  # fmt: skip
