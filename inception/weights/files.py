"""Weights files on disk: safetensors and PyTorch files, written atomically and read without running any code in them.

A file gives `Weights`: tensors by name, metadata, and words that say what kind of file it was. Wrapper prefixes
(`module.`, `_orig_mod.`) and the surroundings of training scripts are taken off here (`wrapping.py`); foreign names stay as they
are, `others_layouts.py` knows about them.
"""

import argparse
import contextlib
import json
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from inception.vocabulary.errors import NetworkError
from inception.weights.wrapping import tensors_in, without_wrappers

CHECKPOINT_FORMATS = ("inception-checkpoint-1", "inception-checkpoint-2")
METADATA_KEY = "inception"
HUB_FILE = "model.safetensors"


@dataclass(frozen=True)
class Weights:
    """Tensors by name, the metadata found with them ({} when there is none), what kind of file they came from, and what had to
    be recognised or assumed of them (in words, perhaps none)."""

    state: dict[str, Tensor]
    metadata: dict[str, Any]
    source: str
    assumed: str = ""


def save_weights(file: str | os.PathLike[str], state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write `state` and `metadata` (JSON-able) as safetensors: complete under its name, or not there at all."""
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    # Copies: safetensors takes neither permuted memory formats nor tensors that share memory.
    plain = torch.contiguous_format
    tensors = {name: tensor.detach().cpu().clone(memory_format=plain) for name, tensor in state.items()}
    try:
        # Written here, not by safetensors: a full disk is an OSError, and the file's mode is that of any other.
        content = save(tensors, metadata={METADATA_KEY: json.dumps(dict(metadata))})
        with temporary.open("wb") as written:
            written.write(content)
            written.flush()
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_weights(file: str | os.PathLike[str], averaged: bool | None = None) -> Weights:
    """Read a weights file of ours or anyone's: safetensors, our checkpoints, state dicts, training scripts' files.

    A run directory stands for its best weights, or its newest checkpoint while it has none. Averaged (EMA) weights are
    preferred where a file holds both. `averaged`: those must be the weights that are read, or must not be; a run directory then
    stands for its newest checkpoint. No code in the file is run. Raises NetworkError for a file that is missing,
    truncated, not a weights file, or that needs code to be read, and where it does not hold the weights that must be.
    """
    path = Path(file)
    if path.is_dir():
        path = weights_of_run(path) if averaged is None else newest_checkpoint(path)
    try:
        with path.open("rb") as opened:
            start = opened.read(9)
    except FileNotFoundError:
        raise NetworkError(f"there is no weights file {path}") from None
    except OSError as error:
        raise NetworkError(f"cannot read the weights file {path}: {error.strerror}") from None
    # safetensors begins with the length of its header, any eight bytes, so that what follows is asked for first.
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size:
        return of_one_kind(path, read_safetensors(path), averaged)
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return read_torch(path, averaged)
    if start[8:] == b"{":
        return read_safetensors(path)  # cut off within its header
    what = "is empty" if not start else "is neither safetensors nor a PyTorch file"
    raise NetworkError(f"{path} {what}; weights come from training, safetensors or torch.save")


def weights_of_run(folder: Path) -> Path:
    """The weights file of a run directory (or of its `checkpoints` folder): the best weights, else the newest ones; or of a
    folder as the Hugging Face hub keeps it."""
    if (folder / HUB_FILE).exists():
        return folder / HUB_FILE
    for place in (folder / "checkpoints", folder):
        best = place / "best.safetensors"
        found = [best] if best.exists() else sorted(place.glob("step-*.pt"))
        if found:
            return found[-1]
    raise NetworkError(f"{folder} is a directory without checkpoints; name a run directory or a weights file")


def newest_checkpoint(folder: Path) -> Path:
    """The newest checkpoint of a run directory, which holds the weights as they were trained beside their averages."""
    found = sorted([*folder.glob("checkpoints/step-*.pt"), *folder.glob("step-*.pt")])
    if not found:
        raise NetworkError(
            f"{folder} holds no checkpoint, in which trained and averaged weights stand beside each other"
        )
    return found[-1]


def of_one_kind(path: Path, weights: Weights, averaged: bool | None) -> Weights:
    """`weights` that a file holds alone, if they are those that must be."""
    if averaged is not None and weights.metadata.get("evaluation", {}).get("average", False) != averaged:
        held = "trained" if averaged else "averaged"
        raise NetworkError(f"{path} holds {held} weights alone; a run's checkpoints (step-*.pt) hold both kinds")
    return weights


def read_safetensors(path: Path) -> Weights:
    """Read a safetensors file; metadata is what `save_weights` stored, {} in other people's files."""
    try:
        # By number: safetensors opens names in UTF-8 alone, and names of files need not be.
        with path.open("rb") as file, safe_open(f"/proc/self/fd/{file.fileno()}", framework="pt") as opened:
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
            stored = (opened.metadata() or {}).get(METADATA_KEY)
    except (SafetensorError, ValueError, OSError) as error:
        raise NetworkError(f"{path} is truncated or damaged ({first_line(error)}); copy or download it again") from None
    if stored is None:
        return Weights(unwrapped(path, state), {}, "safetensors")
    try:
        metadata = json.loads(stored)
    except json.JSONDecodeError:
        raise NetworkError(f"{path} has damaged metadata; export it again") from None
    return Weights(state, metadata, "our safetensors")


def read_torch(path: Path, averaged: bool | None = None) -> Weights:
    """Read a file of torch.save: one of our checkpoints, a state dict, or a dict with state dicts in it; `averaged` as
    `read_weights` has it."""
    try:
        # Training scripts like to keep their command line beside the weights; a Namespace is a plain record.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that are refused a moment later, in one line
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Every part of PyTorch's explanation but the name of the refused object is advice to switch the check off.
        refused = re.search(r"(?:GLOBAL|global) `?([A-Za-z_][\w.]*)", str(error))
        if refused is None and "Unsupported operand" in str(error):
            raise NetworkError(f"{path} is a pickle that torch.save did not write; save a state dict") from None
        if refused is None:
            raise NetworkError(f"{path} is truncated or damaged; copy or download it again") from None
        raise NetworkError(
            f"{path} holds more than tensors ({refused[1]}) and reading that would run code from the file; "
            "save its state dict alone, best as safetensors"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, OSError):
        raise NetworkError(f"{path} is truncated or damaged; copy or download it again") from None
    if not isinstance(content, dict):
        raise NetworkError(f"{path} holds a {type(content).__name__}, not a dict of tensors; save a state dict")
    if content.get("format") in CHECKPOINT_FORMATS:
        return checkpoint_weights(path, content, averaged)
    found = tensors_in(content, averaged)
    if found is None and averaged is not None and tensors_in(content):
        raise NetworkError(f"{path} holds no {'averaged' if averaged else 'trained'} weights beside the others")
    state, source = found or ({}, "a state dict")
    weights = Weights(unwrapped(path, state), {}, source)
    return of_one_kind(path, weights, averaged) if source == "a state dict" else weights


def checkpoint_weights(path: Path, content: dict[str, Any], wanted: bool | None = None) -> Weights:
    """The averaged weights of one of our checkpoints, else the trained ones; or those that are `wanted`."""
    averaged = content.get("ema") is not None and wanted is not False
    if wanted and not averaged:
        raise NetworkError(f"{path} holds no averaged weights: its run kept none (ema.decay 0)")
    state, metadata = content["ema"] if averaged else content.get("network"), content.get("metadata")
    if not isinstance(state, dict) or not isinstance(metadata, dict):
        raise NetworkError(f"{path} is a checkpoint without network or metadata; it was not written by this program")
    # Batch statistics that were measured for the averaged weights stand in the run's evaluator.
    measured = (content.get("evaluator") or {}).get("statistics", {}) if averaged else {}
    if wanted is False and isinstance(metadata.get("evaluation"), dict):
        metadata = {**metadata, "evaluation": {**metadata["evaluation"], "average": False, "recalibrated": False}}
    return Weights(
        {**unwrapped(path, state), **measured}, metadata, f"our checkpoint{', averaged weights' if averaged else ''}"
    )


def unwrapped(path: Path, state: Mapping[Any, Any]) -> dict[str, Tensor]:
    """`state` without what DistributedDataParallel, torch.compile and averaging put into every name."""
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors or not all(isinstance(name, str) for name in tensors):
        raise NetworkError(f"{path} holds no tensors by name; save a state dict")
    return without_wrappers(tensors)


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    with contextlib.suppress(IndexError):
        return str(error).splitlines()[0]
    return type(error).__name__
