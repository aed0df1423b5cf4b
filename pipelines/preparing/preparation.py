"""One preparation from beginning to end: list the input, write the pieces, check them, describe the result.

What is under way lies in OUTPUT/.prepare: the job's description, the catalogues, and a journal with a line for every
finished piece, which is all that resuming needs. At the end OUTPUT/manifest.json describes the whole.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import xxhash

from pipelines.datasets.dataset import open_dataset
from pipelines.datasets.forms import find_source
from pipelines.datasets.index import record_index
from pipelines.preparing import writers
from pipelines.preparing.beton_output import make_betons
from pipelines.preparing.catalogue import SPLITS, Catalogue, Inputs, build_catalogue, check_classes, open_source
from pipelines.preparing.reencoding import Reencoding
from pipelines.preparing.writers import FOLDER_PIECE, File, Piece, Pieces
from pipelines.support.errors import DataError
from pipelines.support.locks import machine_lock
from pipelines.support.progress import progress_bar
from pipelines.support.work_sharing import Team

MANIFEST, CHECKSUMS, WORK, JOB = "manifest.json", "checksums.xxh128", ".prepare", "job.json"
FORMAT = 1
_CHECKED_TOGETHER = 256  # small files a task
_ROOM_TO_SPARE = 0.02  # of what is written, for headers and the file system itself


@dataclass(frozen=True)
class Form:
    """What to make. to: "shards", "folder" or "beton"; shard_size: bytes of input that go into a shard, about; shuffle_seed: of
    the samples' order over the shards, None for the input's."""

    to: str
    longest_side: int | None = None
    quality: int | None = None
    shard_size: int = 256 << 20
    shuffle_seed: int | None = 0


@dataclass(frozen=True)
class Prepared:
    """samples: by split; bytes: written; resumed: pieces that an earlier run had finished; unreadable: names of images
    that no decoder can read, which were copied as they are, or left out of a .beton; already: nothing was left to do
    but check."""

    samples: dict[str, int]
    bytes: int
    resumed: int
    unreadable: list[str]
    already: bool


def prepare(inputs: Inputs, form: Form, output: Path, team: Team, say: Callable[[str], None]) -> Prepared:
    """Make OUTPUT from the inputs, or go on with what an interrupted run of the same job left there.

    DataError for input, options or an output directory that cannot be right, with nothing written; OSError when the disk
    fails or fills up, after which the same call goes on.
    """
    splits = inputs.splits()
    _check_apart(inputs, output)
    job = {"format": FORMAT, **asdict(form), "input": {split: _fingerprint(inputs, split) for split in splits}}
    _claim(output, job)
    work = output / WORK
    work.mkdir(parents=True, exist_ok=True)
    try:
        with machine_lock(work / "preparation.lock", announce=True):
            if _claim(output, job):  # perhaps by the process that was waited for
                prepared = _check_again(output, team)
            else:
                prepared = _Preparation(inputs, form, output, splits, team, say).run(job)
            shutil.rmtree(work)
    finally:
        if work.exists() and not (work / JOB).exists():  # failed before anything was written: nothing to go on with
            shutil.rmtree(work)
            if not any(output.iterdir()):
                output.rmdir()
    return prepared


def _fingerprint(inputs: Inputs, split: str) -> str:
    source = open_source(inputs, split)
    return xxhash.xxh3_128_hexdigest(json.dumps([source.kind, source.state()]).encode())


def _check_apart(inputs: Inputs, output: Path) -> None:
    if inputs.path is None:
        return
    inside = [split for split in SPLITS if output.is_relative_to(inputs.path / split)]
    if inside or output == inputs.path:
        raise DataError(f"output {output} lies in the input; choose a directory of its own")


def _claim(output: Path, job: dict) -> bool:
    """Whether the output holds this job's finished result; DataError when it holds anything that is not this job's."""
    if not output.exists():
        return False
    if not output.is_dir():
        raise DataError(f"output {output} is a file; choose a directory")
    for file, finished in ((output / MANIFEST, True), (output / WORK / JOB, False)):
        if file.is_file():
            try:
                found = json.loads(file.read_text())
                found = found["job"] if finished else found
            except (OSError, ValueError, KeyError, TypeError):
                raise DataError(
                    f"output {output} holds something else ({file.name}); choose an empty directory"
                ) from None
            _check_same(found, job, output)
            return finished
    foreign = sorted(entry.name for entry in output.iterdir() if entry.name != WORK)
    if foreign:
        raise DataError(f"output {output} holds something else ({foreign[0]}); choose an empty directory")
    return False


def _check_same(found: dict, job: dict, output: Path) -> None:
    differing = [name for name in job if found.get(name) != job[name]]
    if not differing:
        return
    name = differing[0]
    what = "other or changed input" if name == "input" else f"{name} {found.get(name)}, not {job[name]}"
    raise DataError(f"output {output} holds a preparation of {what}; remove it, or choose another directory")


class _Preparation:
    """The work on a claimed output directory, on the root of the team."""

    def __init__(
        self, inputs: Inputs, form: Form, output: Path, splits: list[str], team: Team, say: Callable[[str], None]
    ) -> None:
        self.inputs, self.form, self.output, self.splits = inputs, form, output, splits
        self.team, self.say = team, say
        self.work = output / WORK
        self.pieces_at = _pieces_at(form, output)

    def run(self, job: dict) -> Prepared:
        self._sweep()
        started = (self.work / JOB).is_file()
        if not started:
            for split in self.splits:
                build_catalogue(self.team, self.inputs, split, self.work)
        catalogues = {split: Catalogue(self.work, split) for split in self.splits}
        if len(catalogues) == len(SPLITS):
            check_classes(catalogues["train"], catalogues["val"])
        if not started:
            self._check_room(catalogues)
            _write_whole(self.work / JOB, json.dumps(job))
        done, resumed = self._write(catalogues)
        self._check(done)
        if self.form.to != "folder":
            self._index(done)
        counts = {split: self._counted(catalogue) for split, catalogue in catalogues.items()}
        unreadable = [f"{piece.split}/{name}" for piece in done for name in piece.unreadable]
        files = [file for piece in done for file in piece.files]
        if self.form.to == "beton":
            files = make_betons(self.pieces_at, self.splits, done, self.output, self.team)
            counts = {split: _class_counts(self.output, split) for split in self.splits}
        self._describe(job, counts, files, unreadable)
        samples = {split: sum(counts[split].values()) for split in self.splits}
        return Prepared(samples, sum(file.size for file in files), resumed, unreadable, already=False)

    def _sweep(self) -> None:
        self.pieces_at.mkdir(exist_ok=True)
        for directory in {self.output, self.pieces_at}:
            for left in directory.glob(".*.tmp"):
                left.unlink()

    def _write(self, catalogues: dict[str, Catalogue]) -> tuple[list[Piece], int]:
        """Every piece, in order, and how many of them were there before."""
        done = {(piece.split, piece.number): piece for piece in self._journalled()}
        resumed = len(done)
        wanted = [
            (split, number)
            for split, catalogue in catalogues.items()
            for number in range(piece_count(self.form, catalogue))
        ]
        missing = [piece for piece in wanted if piece not in done]
        if resumed:
            self.say(f"going on: {resumed} of {len(wanted)} {_pieces_of(self.form)} are there")
        tasks = [(self.inputs, self.form, self.output, split, number) for split, number in missing]
        total = sum(len(catalogue) for catalogue in catalogues.values())
        with (
            (self.work / "journal.jsonl").open("a") as journal,
            progress_bar(f"Writing {_pieces_of(self.form)}", total, "images") as advance,
        ):
            advance(sum(piece.samples for piece in done.values()))
            for _, piece in self.team.run(_write_piece, tasks):
                journal.write(piece.to_json() + "\n")
                journal.flush()
                done[piece.split, piece.number] = piece
                advance(piece.samples)
        if self.form.to == "folder":
            os.sync()  # shards were brought to the disk one by one; for small files that would take hours
        return [done[piece] for piece in wanted], resumed

    def _journalled(self) -> Iterator[Piece]:
        """The pieces that an earlier run finished and that are still there."""
        journal = self.work / "journal.jsonl"
        if not journal.is_file():
            return
        for line in journal.read_text().splitlines(keepends=True):
            if not line.endswith("\n"):
                continue  # the run was killed while it wrote this line
            piece = Piece.from_json(line)
            if all(_size(self.pieces_at / file.name) == file.size for file in piece.files):
                yield piece

    def _check_room(self, catalogues: dict[str, Catalogue]) -> None:
        if self.form.longest_side is not None or self.form.quality is not None:
            return  # nobody knows beforehand how small the images get
        need = int(sum(catalogue.bytes for catalogue in catalogues.values()) * (1 + _ROOM_TO_SPARE))
        if self.form.to == "beton":
            need *= 2  # shards first
        free = shutil.disk_usage(self.output).free
        if need > free:
            raise DataError(
                f"too little room in {self.output}: {need / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free; "
                "make room and run the same command again, or use --longest-side or --quality"
            )

    def _check(self, done: list[Piece]) -> None:
        files = [file for piece in done for file in piece.files]
        wrong = _differing(self.team, self.pieces_at, files)
        if wrong:
            for name in wrong:
                (self.pieces_at / name).unlink(missing_ok=True)
            raise OSError(
                f"{wrong[0]}{_and_more(wrong)} could not be read back as written, and was removed: "
                f"the disk under {self.output} may be failing; run the same command again to write it anew"
            )

    def _index(self, done: list[Piece]) -> None:
        """Write the shards' index from what the workers saw, so that nothing is read a third time."""
        for split in self.splits:
            shards = [piece for piece in done if piece.split == split]
            ends = ((shard.number, rows) for shard in shards for rows in (shard.index_rows(), None))
            record_index(find_source(self.pieces_at, split), self.pieces_at, ends)

    def _counted(self, catalogue: Catalogue) -> dict[str, int]:
        """Samples of each class, counted the way training will read them."""
        expected = dict(zip(catalogue.classes, catalogue.counts.tolist()))
        found = _class_counts(self.pieces_at, catalogue.split)
        wrong = [name for name in expected if found.get(name) != expected[name]] or sorted(set(found) - set(expected))
        if wrong:
            raise OSError(
                f"class {wrong[0]} of {catalogue.split} has {found.get(wrong[0], 0)} images in {self.output}, "
                f"not {expected.get(wrong[0], 0)}{_and_more(wrong)}; remove {self.output} and prepare again"
            )
        return expected

    def _describe(self, job: dict, counts: dict[str, dict[str, int]], files: list[File], unreadable: list[str]) -> None:
        with (self.output / CHECKSUMS).open("w", encoding="utf-8", errors="surrogateescape") as file:
            file.writelines(f"{digest}  {name}\n" for name, _, digest in files)
        manifest = {
            "job": job,
            "splits": {
                split: {"samples": sum(classes.values()), "classes": classes} for split, classes in counts.items()
            },
            "files": len(files),
            "bytes": sum(file.size for file in files),
            "checksums": CHECKSUMS,
            "unreadable": unreadable,
        }
        _write_whole(self.output / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def _class_counts(path: Path, split: str) -> dict[str, int]:
    """Samples of each class, as training opens the data."""
    dataset = open_dataset(path, split)
    labels = dataset.labels(np.arange(len(dataset)))
    return dict(zip(dataset.classes, np.bincount(labels, minlength=len(dataset.classes)).tolist()))


def _write_whole(file: Path, text: str) -> None:
    """Write a file that is there wholly or not at all, after a power failure too."""
    temporary = file.with_name(f".{file.name}.tmp")
    with temporary.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.rename(file)


def piece_count(form: Form, catalogue: Catalogue) -> int:
    """How many pieces a split is cut into; a piece holds at least one sample."""
    if form.to == "folder":
        return -(-len(catalogue) // FOLDER_PIECE)
    return min(max(-(-catalogue.bytes // form.shard_size), 1), len(catalogue))


@cache
def _opened(inputs: Inputs, form: Form, output: Path, split: str) -> Pieces:
    catalogue = Catalogue(output / WORK, split)
    reencoding = Reencoding(form.longest_side, form.quality)
    count = piece_count(form, catalogue)
    # A folder's order is nobody's business but the reading's: as the input lies.
    seed = None if form.to == "folder" else form.shuffle_seed
    return Pieces(catalogue, open_source(inputs, split), reencoding, count, seed)


def _write_piece(task: tuple[Inputs, Form, Path, str, int]) -> Piece:
    inputs, form, output, split, number = task
    write = writers.write_files if form.to == "folder" else writers.write_shard
    try:
        return write(_opened(inputs, form, output, split), number, _pieces_at(form, output))
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(output)) from None  # a full disk names no file


def _pieces_at(form: Form, output: Path) -> Path:
    """Where the pieces are written: the output, or a place for shards that are a step on the way."""
    return output / WORK / "shards" if form.to == "beton" else output


def _differing(team: Team, output: Path, files: list[File]) -> list[str]:
    """Which files are not what was written, read in parallel: large ones each by themselves."""
    tasks, batch = [], []
    for file in files:
        batch.append(file)
        if len(batch) == _CHECKED_TOGETHER or file.size > writers.LARGE:
            tasks.append((output, batch))
            batch = []
    if batch:
        tasks.append((output, batch))
    with progress_bar("Checking", len(files)) as advance:
        wrong: list[str] = []
        for position, names in team.run(writers.differing, tasks):
            wrong += names
            advance(len(tasks[position][1]))
    return sorted(wrong)


def _check_again(output: Path, team: Team) -> Prepared:
    """Compare a finished output with its checksums."""
    manifest = json.loads((output / MANIFEST).read_text())
    with (output / CHECKSUMS).open(encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.rstrip("\n").split("  ", 1) for line in file]
    wrong = _differing(team, output, [File(name, _size(output / name), digest) for digest, name in lines])
    if wrong:
        raise DataError(
            f"{output / wrong[0]}{_and_more(wrong)} changed since it was prepared; remove {output} and prepare again"
        )
    samples = {split: values["samples"] for split, values in manifest["splits"].items()}
    return Prepared(samples, manifest["bytes"], 0, manifest["unreadable"], already=True)


def _size(path: Path) -> int:
    """In bytes; -1 for a file that is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _pieces_of(form: Form) -> str:
    return "shards" if form.to != "folder" else f"runs of {FOLDER_PIECE} images"


def _and_more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
