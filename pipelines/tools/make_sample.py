"""Makes the embedded dataset, pipelines/sample, from CIFAR-10 stored as JPEGs in class folders inside a zip archive.

    python pipelines/tools/make_sample.py cifar10.zip

The archive holds train/<class>/<number>.jpg and val/<class>/<number>.jpg, 32 x 32 pixels each. The first images of
every class by number are taken, their bytes unchanged, and written to tar shards in which classes alternate; the class
is the folder in a member's name. Owners, times and modes are fixed, so that the same archive gives the same bytes.

Origin: Alex Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", technical report, University of
Toronto, 2009, https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import io
import sys
import tarfile
import zipfile
from collections import defaultdict
from pathlib import Path

SAMPLE = Path(__file__).resolve().parents[1] / "sample"
PER_CLASS = {"train": 400, "val": 100}
PER_SHARD = 1000


def chosen(names: list[str], split: str) -> list[str]:
    """The first images of every class of one split, one of each class in turn."""
    by_class: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        parts = name.split("/")
        if len(parts) == 3 and parts[0] == split and name.endswith(".jpg"):
            by_class[parts[1]].append(name)
    rounds = zip(*(by_class[label][: PER_CLASS[split]] for label in sorted(by_class)))
    return [name for members in rounds for name in members]


def write_shard(archive: zipfile.ZipFile, names: list[str], path: Path) -> None:
    """One tar shard of members <class>/<number>.jpg."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as shard:
        for name in names:
            data = archive.read(name)
            member = tarfile.TarInfo(name.split("/", 1)[1])
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))


def main() -> int:
    if len(sys.argv) != 2:
        print(f"usage: {Path(__file__).name} CIFAR10.zip", file=sys.stderr)
        return 2
    SAMPLE.mkdir(exist_ok=True)
    with zipfile.ZipFile(sys.argv[1]) as archive:
        for split in PER_CLASS:
            names = chosen(archive.namelist(), split)
            for number, start in enumerate(range(0, len(names), PER_SHARD)):
                write_shard(archive, names[start : start + PER_SHARD], SAMPLE / f"{split}-{number:03d}.tar")
    total = sum(path.stat().st_size for path in SAMPLE.glob("*.tar"))
    print(f"{SAMPLE}: {len(list(SAMPLE.glob('*.tar')))} shards, {total / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
