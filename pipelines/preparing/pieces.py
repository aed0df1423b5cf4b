"""What to make of a dataset, and into which pieces the work is cut that workers do in any order."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipelines.preparing import writers
from pipelines.preparing.catalogue import Catalogue, Inputs, open_source
from pipelines.preparing.output_directory import WORK
from pipelines.preparing.reencoding import Reencoding
from pipelines.preparing.stores import JPEG, STORES
from pipelines.preparing.writers import FOLDER_PIECE, Piece, Pieces


@dataclass(frozen=True)
class Form:
    """What to make. to: "shards", "folder" or "beton"; shard_size: bytes of input that go into a shard, about; shuffle_seed: of
    the samples' order over the shards, None for the input's; store: a name in `stores.STORES`."""

    to: str
    longest_side: int | None = None
    quality: int | None = None
    shard_size: int = 256 << 20
    shuffle_seed: int | None = 0
    store: str = JPEG


def piece_count(form: Form, catalogue: Catalogue) -> int:
    """How many pieces a split is cut into; a piece holds at least one sample."""
    if form.to == "folder":
        return -(-len(catalogue) // FOLDER_PIECE)
    return min(max(-(-catalogue.bytes // form.shard_size), 1), len(catalogue))


@cache
def pieces_of(inputs: Inputs, form: Form, output: Path, split: str) -> Pieces:
    """How a split is cut whose catalogue is written; opened once a process."""
    catalogue = Catalogue(output / WORK, split)
    reencoding = Reencoding(form.longest_side, form.quality)
    count = piece_count(form, catalogue)
    # A folder's order is nobody's business but the reading's: as the input lies.
    seed = None if form.to == "folder" else form.shuffle_seed
    return Pieces(catalogue, open_source(inputs, split), reencoding, STORES[form.store], count, seed)


def write_piece(task: tuple[Inputs, Form, Path, str, int]) -> Piece:
    inputs, form, output, split, number = task
    write = writers.write_files if form.to == "folder" else writers.write_shard
    try:
        return write(pieces_of(inputs, form, output, split), number, pieces_at(form, output))
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(output)) from None  # a full disk names no file


def pieces_at(form: Form, output: Path) -> Path:
    """Where the pieces are written: the output, or a place for shards that are a step on the way."""
    return output / WORK / "shards" if form.to == "beton" else output


def name_of_pieces(form: Form) -> str:
    """What they are called in messages."""
    return "shards" if form.to != "folder" else f"runs of {FOLDER_PIECE} images"
