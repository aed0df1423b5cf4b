"""Ranks that are about to train together must mean the same: compared before the first step."""

import hashlib
import os
import platform
import time
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path

import torch

from engine.config.options import ConfigError
from engine.distributed.communicator import Communicator

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("inception", "pipelines", "engine", "launch")
# A file that another machine wrote may take this long to be seen (NFS keeps what is not there for up to a minute) [seconds].
VISIBLE_WITHIN = 90.0


def require_agreement(communicator: Communicator, statements: Mapping[str, str]) -> None:
    """Compares `statements` (text by name, a line each thing) of all ranks. Every rank must call it, and raises the same
    ConfigError when they differ: in which line, on which rank and host, against the first rank's."""
    hosts, digests = zip(
        *communicator.gather((platform.node(), {name: _digest(statements[name]) for name in statements}))
    )
    for name in statements:
        differing = [rank for rank, other in enumerate(digests) if other[name] != digests[0][name]]
        if not differing:
            continue
        rank, texts = differing[0], communicator.gather(statements[name])
        theirs, ours = next(
            pair for pair in zip_longest(texts[rank].split("\n"), texts[0].split("\n")) if len(set(pair)) > 1
        )
        more = f" (and {len(differing) - 1} ranks more)" if len(differing) > 1 else ""
        raise ConfigError(
            f"rank {rank} on {hosts[rank]}{more} has another {name} than rank 0 on {hosts[0]}: {theirs}, not {ours}; "
            "every rank must have the same"
        )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def versions() -> dict[str, str]:
    """What of this program and of torch every rank must have alike."""
    return {"version of torch": torch.__version__, "source code": code_digest()}


def code_digest() -> str:
    """Names the program's own modules by content."""
    digest = hashlib.sha256()
    for path in sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        digest.update(os.fsencode(path.relative_to(ROOT)) + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def require_shared(communicator: Communicator, folder: Path) -> None:
    """Raises ConfigError on every rank when one does not see a file that the first rank writes into `folder`."""
    token = communicator.from_first(lambda: os.urandom(8).hex())
    mark = folder / f".seen-by-all.{token}"
    communicator.from_first(mark.touch)
    give_up = time.monotonic() + VISIBLE_WITHIN
    # Opened, not asked for: opening makes a network file system look.
    while not (seen := _opens(mark)) and time.monotonic() < give_up:
        time.sleep(0.5)
    told = communicator.gather((seen, platform.node()))
    if communicator.is_main:
        mark.unlink(missing_ok=True)
    blind = [(rank, host) for rank, (saw, host) in enumerate(told) if not saw]
    if blind:
        rank, host = blind[0]
        raise ConfigError(
            f"rank {rank} on {host} does not see the run directory {folder} of rank 0 on {told[0][1]}: "
            "choose a --run.dir on a file system that every machine shares"
        )


def _opens(path: Path) -> bool:
    try:
        path.open("rb").close()
    except OSError:
        return False
    return True
