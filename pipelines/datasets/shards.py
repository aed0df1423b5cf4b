"""Samples in tar shards in WebDataset's layout, or of class folders packed as they are."""

import os
from collections.abc import Iterator
from pathlib import Path

from pipelines.datasets.files import open_regular
from pipelines.datasets.image_names import kind_of, left_behind
from pipelines.datasets.passed_over import PassedOver
from pipelines.datasets.sample_labels import key_of, label_of, paired, parts_of
from pipelines.datasets.source import Found, Source
from pipelines.datasets.tar_files import File, list_files
from pipelines.support.errors import DataError


class Shards(Source):
    """Tar files: the files of a sample share a key, the name up to its first dot."""

    kind, separator = "shards", ":"

    def __init__(self, root: Path, split: str, names: list[str]) -> None:
        super().__init__(root, split)
        self.groups = names

    def state(self) -> list[list]:
        stats = [(name, (self.root / name).stat()) for name in self.groups]
        return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]

    def check(self) -> None:
        """Nothing can be said of a shard that is not read: `samples` does."""

    def samples(self, group: int) -> Iterator[Found]:
        path, passed_over = self.root / self.groups[group], PassedOver()
        samples: dict[tuple[int, str], list[File]] = {}
        for file in list_files(path, passed_over):
            if any(map(left_behind, file.path.split("/"))):
                passed_over.add(kind_of(file.path), file.name)
            else:
                samples.setdefault((file.archive, key_of(file.path)[0]), []).append(file)
        found = False
        descriptor = open_regular(path)
        try:
            for parts in map(parts_of, samples.values()):
                for file in parts.others if parts.images else [*parts.others, *parts.labels]:
                    passed_over.add(_beside(file), file.name)
                for image, labels in paired(parts):
                    found = True
                    label = label_of(image, labels, descriptor, passed_over)
                    yield Found(image.name, label, image.place, image.size)
        except DataError as error:
            raise DataError(f"{path}:{error}") from None
        finally:
            os.close(descriptor)
        self._aside.passed_over.join(passed_over, f"{path.name}:")
        if not found:
            besides, advice = f" ({passed_over})" if passed_over else "", "remove it or make it again"
            if ".tar" in passed_over:
                advice = "of ImageNet's own archives python pipelines/prepare.py imagenet makes a dataset"
            raise DataError(f"shard {path} holds no images{besides}; {advice}")

    def file(self, group: int, name: str) -> str:
        return f"{self.root}/{self.groups[group]}"


def _beside(file: File) -> str:
    """What a file that is not the image of its key is called: ".mask.png", ".txt"."""
    extension = key_of(file.path)[1]
    return f".{extension}" if extension else kind_of(file.path)
