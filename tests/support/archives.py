"""ImageNet's archives in miniature, and preparation run the ways that people run it."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("n01440764", "n01443537", "n02123045")  # tench, goldfish, tabby
IDENTIFIERS = {2: CLASSES[1], 7: CLASSES[2], 993: CLASSES[0]}  # the kit's numbers are not in the names' order


def picture(number: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """A small JPEG that no other number gives."""
    generator = np.random.default_rng(number)
    coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), np.uint8))
    file = io.BytesIO()
    coarse.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def tar(members: Iterable[tuple[str, bytes]], mode: str = "w") -> bytes:
    """A tar file of (name, content)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def train_images(each: int = 5) -> dict[str, bytes]:
    """ "class/file" -> JPEG of the training archive."""
    return {
        f"{name}/{name}_{number}.JPEG": picture(100 * place + number)
        for place, name in enumerate(CLASSES)
        for number in range(each)
    }


def val_images(count: int = 6) -> list[tuple[str, str, bytes]]:
    """(class, file, JPEG) of the validation archive, in its order."""
    order = [CLASSES[2], CLASSES[0], CLASSES[0], CLASSES[1]]
    return [
        (order[number % len(order)], f"ILSVRC2012_val_{number + 1:08}.JPEG", picture(1000 + number))
        for number in range(count)
    ]


def devkit(truth: list[int]) -> bytes:
    """ILSVRC2012_devkit_t12.tar.gz with what its readme promises: meta.mat and the ground truth's class numbers."""
    from scipy.io import savemat

    synsets = np.zeros((len(IDENTIFIERS), 1), [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")])
    for row, (number, identifier) in enumerate(IDENTIFIERS.items()):
        synsets[row, 0] = (float(number), identifier, f"class {number}")
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    root = "ILSVRC2012_devkit_t12"
    labels = "".join(f"{number}\n" for number in truth).encode()
    files = [("readme.txt", b"."), ("data/meta.mat", meta.getvalue())]
    files.append(("data/ILSVRC2012_validation_ground_truth.txt", labels))
    return tar([(f"{root}/{name}", data) for name, data in files], "w:gz")


def write_imagenet(root: Path, each: int = 5) -> tuple[Path, Path]:
    """The three archives in a directory; the paths of the train and the val archive."""
    root.mkdir(parents=True, exist_ok=True)
    images = train_images(each)
    parts = [
        (f"{name}.tar", tar((path.partition("/")[2], data) for path, data in images.items() if path.startswith(name)))
        for name in CLASSES
    ]
    train, val = root / "ILSVRC2012_img_train.tar", root / "ILSVRC2012_img_val.tar"
    train.write_bytes(tar(parts))
    val.write_bytes(tar((name, data) for _, name, data in val_images()))
    number_of = {identifier: number for number, identifier in IDENTIFIERS.items()}
    kit = devkit([number_of[label] for label, _, _ in val_images()])
    (root / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(kit)
    return train, val


def write_folder(root: Path, each: int = 5, size: tuple[int, int] = (64, 48)) -> Path:
    """A folder of class folders, two classes, train and val."""
    for place, name in enumerate(("cat", "dog")):
        for split, count in (("train", each), ("val", 2)):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                data = picture(1000 * (split == "val") + 100 * place + number, size)
                (root / split / name / f"{name}{number}.jpg").write_bytes(data)
    return root


def contents(root: Path) -> dict[str, str]:
    """Digest of every file below a directory that preparation made, but for the index and the manifest."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".index" not in path.parts and path.name != "manifest.json"
    }


def mpirun(ranks: int, scratch: Path) -> list[str]:
    """How tests start MPI ranks: of the openmpi that is installed with the `mpi` extra, on any number of cores.

    scratch: a directory of the test, for the memory that ranks share: those that are killed leave it behind.
    """
    launcher = Path(sys.executable).parent / "mpirun"
    options = ["--allow-run-as-root", "--oversubscribe", "--mca", "btl_sm_backing_directory", str(scratch)]
    return [str(launcher), *options, "-n", str(ranks), sys.executable]
