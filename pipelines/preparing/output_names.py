"""The names of samples in a prepared dataset: unique, safe as paths, without a dot in the middle, where WebDataset's keys end."""

import re
from array import array

import numpy as np
import xxhash

# Characters that end a line, or do worse, in lists of names.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class OutputNames:
    """Gives each sample of a split the name that it has in the output, in two passes over all of them in the same order: the
    first keeps 8 bytes of each name's digest, which show the names that come more than once; the second numbers those."""

    def __init__(self, split: str) -> None:
        self._split = split
        self._digests: array | None = array("Q")
        self._known = np.empty(0, np.uint64)  # sorted digests of all names
        self._repeated: set[int] = set()
        self._given: set[str] = set()  # of repeated names, and those made from them

    def settle(self) -> bool:
        """End the first pass; whether there has to be a second."""
        self._known = np.sort(np.frombuffer(self._digests or b"", np.uint64))
        self._digests = None
        self._repeated = set(self._known[1:][self._known[1:] == self._known[:-1]].tolist())
        return bool(self._repeated)

    def name(self, name: str, label: str) -> str:
        """ "class/stem.extension", perhaps with folders between, its key (all before the dot) given once only; without an
        extension where the input has none."""
        *folders, file = [part for part in name.split("/") if part not in ("", ".")]
        for prefix in (self._split, label):  # shards made from folders name them in their members
            if folders[:1] == [prefix]:
                folders = folders[1:]
        *folders, file = [CONTROL.sub("_", part) for part in (*folders, file)]
        stem, _, extension = file.rpartition(".") if "." in file else (file, "", "")
        stem = (stem or "image").replace(".", "_")
        key = self._unique("/".join([label, *(folder.lstrip(".") or "_" for folder in folders), stem]))
        return f"{key}.{extension}" if extension else key

    def _unique(self, key: str) -> str:
        digest = _digest(key)
        if self._digests is not None:
            self._digests.append(digest)
            return key
        if digest not in self._repeated:
            return key
        number, unique = 1, key
        while unique in self._given or (number > 1 and self._is_a_name(unique)):
            number += 1
            unique = f"{key}-{number}"
        self._given.add(unique)
        return unique

    def _is_a_name(self, key: str) -> bool:
        """Whether some sample has this name by itself."""
        digest = np.uint64(_digest(key))
        place = np.searchsorted(self._known, digest)
        return bool(place < len(self._known) and self._known[place] == digest)


def _digest(key: str) -> int:
    return xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogateescape"))
