"""One preparation from beginning to end: list the input, write the pieces, check them, describe the result.

What is under way lies in OUTPUT/.prepare: the job's description, the catalogues, and a journal with a line for every
finished piece, which is all that resuming needs. At the end OUTPUT/manifest.json describes the whole.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import xxhash

from pipelines.datasets.dataset import open_dataset
from pipelines.datasets.forms import find_source
from pipelines.datasets.index import record_index
from pipelines.preparing.beton_output import make_betons
from pipelines.preparing.catalogue import Catalogue, Inputs, build_catalogue, open_source, unreadable
from pipelines.preparing.output_directory import CHECKSUMS, JOB, MANIFEST, WORK, claim, write_whole
from pipelines.preparing.pieces import Form, name_of_pieces, piece_count, pieces_at, write_piece
from pipelines.preparing.room import check_room
from pipelines.preparing.stores import STORES
from pipelines.preparing.verification import and_more, differing_files, size_of, verified_manifest
from pipelines.preparing.writers import File, Piece
from pipelines.support.errors import DataError
from pipelines.support.locks import machine_lock
from pipelines.support.progress import progress_bar
from pipelines.support.work_sharing import Team

FORMAT = 2


@dataclass(frozen=True)
class Prepared:
    """samples: by split; bytes: written; resumed: pieces that an earlier run had finished; unreadable: names of images
    that no decoder can read, which were copied as they are, or left out of a .beton; already: nothing was left to do
    but check; kept: how many images their store left as they are, by why."""

    samples: dict[str, int]
    bytes: int
    resumed: int
    unreadable: list[str]
    already: bool
    kept: dict[str, int] = field(default_factory=dict)


def prepare(inputs: Inputs, form: Form, output: Path, team: Team, say: Callable[[str], None]) -> Prepared:
    """Make OUTPUT from the inputs, or go on with what an interrupted run of the same job left there.

    DataError for input, options or an output directory that cannot be right, with nothing written; OSError when the disk
    fails or fills up, after which the same call goes on.
    """
    store = STORES[form.store]
    if form.to not in store.forms:
        raise DataError(f"--store {form.store} cannot be made --to {form.to}; choose --to {' or '.join(store.forms)}")
    if missing := store.missing():
        raise DataError(f"--store {form.store} cannot be made here: {missing}")
    try:
        splits = inputs.splits()
        _check_apart(inputs, output)
        job = {"format": FORMAT, **asdict(form), "input": {split: _fingerprint(inputs, split) for split in splits}}
    except OSError as error:
        raise unreadable(error, "the input") from None
    claim(output, job)
    work = output / WORK
    with machine_lock(work / "preparation.lock", announce=True):
        try:
            work.mkdir(parents=True, exist_ok=True)  # where the lock lies elsewhere, for want of one here
            if claim(output, job):  # perhaps by the process that was waited for
                prepared = _as_before(verified_manifest(output, team))
            else:
                prepared = _Preparation(inputs, form, output, splits, team, say).run(job)
            (work / JOB).unlink(missing_ok=True)
        except OSError as error:
            if error.filename is not None or error.errno is None:
                raise
            raise OSError(error.errno, error.strerror, str(output)) from None  # a full disk names no file
        finally:
            if not (work / JOB).exists():  # done, or failed before anything was written: nothing to go on with
                shutil.rmtree(work, ignore_errors=True)
                if output.is_dir() and not any(output.iterdir()):
                    output.rmdir()
    return prepared


def _as_before(manifest: dict) -> Prepared:
    samples = {split: values["samples"] for split, values in manifest["splits"].items()}
    kept = manifest.get("kept", {})  # there was none before there were stores
    return Prepared(samples, manifest["bytes"], 0, manifest["unreadable"], already=True, kept=kept)


def _fingerprint(inputs: Inputs, split: str) -> str:
    source = open_source(inputs, split)
    classes = inputs.location.class_names() if inputs.location else None
    known = [source.kind, source.state(), *([classes] if classes else [])]
    return xxhash.xxh3_128_hexdigest(json.dumps(known).encode())


def _check_apart(inputs: Inputs, output: Path) -> None:
    if inputs.location is None:
        return
    top = Path(inputs.location.path or "/")
    roots = [open_source(inputs, split) for split in inputs.splits()]
    inside = any(output.is_relative_to(source.root) and (source.root != top or source.own_files) for source in roots)
    if inside or output == top:
        raise DataError(f"output {output} lies in the input; choose a directory of its own")


class _Preparation:
    """The work on a claimed output directory, on the root of the team."""

    def __init__(
        self, inputs: Inputs, form: Form, output: Path, splits: list[str], team: Team, say: Callable[[str], None]
    ) -> None:
        self.inputs, self.form, self.output, self.splits = inputs, form, output, splits
        self.team, self.say = team, say
        self.work = output / WORK
        self.pieces_at = pieces_at(form, output)
        self._places: dict[tuple[str, int], int] = {}  # by split and number, offset of a piece in the journal

    def run(self, job: dict) -> Prepared:
        self._sweep()
        started = (self.work / JOB).is_file()
        if not started:
            classes = self.inputs.location.class_names() if self.inputs.location else None
            for split in self.splits:
                build_catalogue(self.team, self.inputs, split, self.work, classes)
                classes = tuple(Catalogue(self.work, split).classes)
        catalogues = {split: Catalogue(self.work, split) for split in self.splits}
        for split, catalogue in catalogues.items():
            for remark in catalogue.remarks:
                self.say(f"{split}: {remark}")
        if not started:
            check_room(self.inputs, self.form, self.output, catalogues, self.team.workers, self.say)
            write_whole(self.work / JOB, json.dumps(job))
        done, resumed = self._write(catalogues)
        self._check(done)
        if self.form.to != "folder":
            self._index(done)
        counts = {split: self._counted(catalogue) for split, catalogue in catalogues.items()}
        unreadable = [f"{piece.split}/{name}" for piece in done for name in piece.unreadable]
        files: Iterable[File] = self._files(done)
        if self.form.to == "beton":
            files = make_betons(self.pieces_at, self.splits, done, self.output, self.team)
            counts = {split: _class_counts(self.output, split) for split in self.splits}
        kept = dict(sorted(sum((piece.kept for piece in done), Counter()).items()))
        written = self._describe(job, catalogues, counts, files, unreadable, kept)
        samples = {split: sum(counts[split].values()) for split in self.splits}
        return Prepared(samples, written, resumed, unreadable, already=False, kept=kept)

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
            self.say(f"going on: {resumed} of {len(wanted)} {name_of_pieces(self.form)} are there")
        tasks = [(self.inputs, self.form, self.output, split, number) for split, number in missing]
        total = sum(len(catalogue) for catalogue in catalogues.values())
        with (
            (self.work / "journal.jsonl").open("ab") as journal,
            progress_bar(f"Writing {name_of_pieces(self.form)}", total, "images") as advance,
        ):
            advance(sum(piece.samples for piece in done.values()))
            for _, piece in self.team.run(write_piece, tasks):
                self._places[piece.split, piece.number] = journal.tell()
                journal.write(piece.to_json().encode() + b"\n")
                journal.flush()
                done[piece.split, piece.number] = self._without_lists(piece)
                advance(piece.samples)
        if self.form.to == "folder":
            os.sync()  # shards were brought to the disk one by one; for small files that would take hours
        return [done[piece] for piece in wanted], resumed

    def _journalled(self) -> Iterator[Piece]:
        """The pieces that an earlier run finished and that are still there."""
        journal = self.work / "journal.jsonl"
        if not journal.is_file():
            return
        at = 0
        with journal.open("r+b") as file:
            for line in file:
                if not line.endswith(b"\n"):  # the run was killed while it wrote this line
                    file.truncate(at)
                    return
                piece = Piece.from_json(line.decode())
                if all(size_of(self.pieces_at / file.name) == file.size for file in piece.files):
                    self._places[piece.split, piece.number] = at
                    yield self._without_lists(piece)
                at += len(line)

    def _without_lists(self, piece: Piece) -> Piece:
        """What stays in memory of a piece; the rest waits in the journal."""
        return replace(piece, members=[], files=[] if self.form.to == "folder" else piece.files)

    def _files(self, done: list[Piece]) -> Iterator[File]:
        """All that was written, in order."""
        for piece in done:
            yield from piece.files or self._whole(piece).files

    def _check(self, done: list[Piece]) -> None:
        count = sum(len(piece.files) or piece.samples for piece in done)
        wrong = differing_files(self.team, self.pieces_at, self._files(done), count)
        if wrong:
            for name in wrong:
                (self.pieces_at / name).unlink(missing_ok=True)
            raise OSError(
                f"{wrong[0]}{and_more(wrong)} could not be read back as written, and was removed: "
                f"the disk under {self.output} may be failing; run the same command again to write it anew"
            )

    def _index(self, done: list[Piece]) -> None:
        """Write the shards' index from what the workers saw, so that nothing is read a third time."""
        for split in self.splits:
            shards = [piece for piece in done if piece.split == split]
            ends = ((shard.number, rows) for shard in shards for rows in (self._whole(shard).index_rows(), None))
            record_index(find_source(self.pieces_at, split), self.pieces_at, ends)

    def _whole(self, piece: Piece) -> Piece:
        """A piece with its samples and files, which wait in the journal."""
        with (self.work / "journal.jsonl").open("rb") as journal:
            journal.seek(self._places[piece.split, piece.number])
            return Piece.from_json(journal.readline().decode())

    def _counted(self, catalogue: Catalogue) -> dict[str, int]:
        """Samples of each class, counted the way training will read them."""
        expected = {name: count for name, count in zip(catalogue.classes, catalogue.counts.tolist()) if count}
        found = {
            name: count
            for name, count in _class_counts(self.pieces_at, catalogue.split, catalogue.classes).items()
            if count
        }
        wrong = [name for name in expected if found.get(name) != expected[name]] or sorted(set(found) - set(expected))
        if wrong:
            raise OSError(
                f"class {wrong[0]} of {catalogue.split} has {found.get(wrong[0], 0)} images in {self.output}, "
                f"not {expected.get(wrong[0], 0)}{and_more(wrong)}; remove {self.output} and prepare again"
            )
        return expected

    def _describe(
        self,
        job: dict,
        catalogues: dict[str, Catalogue],
        counts: dict[str, dict[str, int]],
        files: Iterable[File],
        unreadable: list[str],
        kept: dict[str, int],
    ) -> int:
        """Write the manifest and the checksums; returns how many bytes were written."""
        count = written = 0
        with (self.output / CHECKSUMS).open("w", encoding="utf-8", errors="surrogateescape") as checksums:
            for name, size, digest in files:
                checksums.write(f"{digest}  {name}\n")
                count, written = count + 1, written + size
        manifest = {
            "job": job,
            "splits": {
                split: {"samples": sum(classes.values()), "classes": classes} for split, classes in counts.items()
            },
            "held_out": max(open_source(self.inputs, split).held_out for split in self.splits),
            "passed_over": {split: catalogue.passed_over for split, catalogue in catalogues.items()},
            "remarks": {split: catalogue.remarks for split, catalogue in catalogues.items()},
            "files": count,
            "bytes": written,
            "checksums": CHECKSUMS,
            "unreadable": unreadable,
            "kept": kept,
        }
        write_whole(self.output / MANIFEST, json.dumps(manifest, indent=1) + "\n")
        return written


def _class_counts(path: Path, split: str, classes: list[str] | None = None) -> dict[str, int]:
    """Samples of each class, as training opens the data."""
    dataset = open_dataset(path, split, classes=classes)
    labels = dataset.labels(np.arange(len(dataset)))
    return dict(zip(dataset.classes, np.bincount(labels, minlength=len(dataset.classes)).tolist()))
