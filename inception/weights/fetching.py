"""Weights that are named, not given as a file: fetched once through torch.hub and huggingface_hub, then found in their caches.

Names: `torchvision:...` and `timm:...` of published.py; `hf:OWNER/REPOSITORY[@REVISION]` on the Hugging Face hub; and an URL
with the SHA-256 of its file, `https://host/file.pth#sha256=HEX` (or torch.hub's form, whose file name ends with -HEX).
"""

import hashlib
import json
import logging
import os
import re
import socket
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from inception.vocabulary.errors import NetworkError
from inception.weights.published import HASH, described, find_published

_NAME = re.compile(r"(torchvision|timm|hf|https?):")
_FILES = ("model.safetensors", "pytorch_model.bin")  # of a repository, the first that is there


def is_name(text: str) -> bool:
    """Whether that names weights to fetch, and no file."""
    return _NAME.match(text) is not None


def path_of(text: str | os.PathLike[str]) -> Path:
    """The file that is given, or that is fetched for a name."""
    return fetch(os.fspath(text))[0] if is_name(os.fspath(text)) else Path(text)


def fetch(name: str) -> tuple[Path, dict[str, Any]]:
    """The file of the weights called `name`, in a cache, and what is known of them beside it (as `Published.metadata`).

    What is cached needs no network. Raises NetworkError, one line, for a name that does not exist, a file that is not the one
    that its SHA-256 says, a cache that cannot be written, or a file that is not cached where there is no network.
    """
    source, _, rest = name.partition(":")
    if source in ("http", "https"):
        return from_url(name), {}
    if source == "hf":
        repository, _, revision = rest.partition("@")
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
            raise NetworkError(
                f"{name!r} names no repository; write hf:OWNER/REPOSITORY or hf:OWNER/REPOSITORY@REVISION"
            )
        config = from_hub(repository, revision, ("config.json",), name)
        return weights_from_hub(repository, revision, name), config_of(config, name) if config else {}
    entry = find_published(name)
    file = weights_from_hub(entry.repository, "", name) if entry.repository else from_url(entry.url)
    return file, entry.metadata


def from_url(url: str) -> Path:
    """The file at an URL with its SHA-256, in torch.hub's cache."""
    parts = urlsplit(url)
    place, file = url.partition("#")[0], parts.path.rpartition("/")[2]
    given, named = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", parts.fragment), HASH.search(file)
    if given is None and (parts.fragment or named is None):
        raise NetworkError(f"{url} needs the SHA-256 of its file, 64 digits: {place}#sha256=...")
    wanted = given[1].lower() if given else named[1] if named else ""
    cached = Path(torch.hub.get_dir()) / "checkpoints" / file
    try:
        if cached.exists() and digest(cached).startswith(wanted):
            return cached
        cached.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(place, str(cached), wanted, progress=True)
    except RuntimeError as error:
        if "hash" not in str(error):
            raise
        raise NetworkError(
            f"{place} is not the file that was asked for: its SHA-256 does not begin with {wanted}"
        ) from None
    except PermissionError as error:
        raise NetworkError(f"cannot write {error.filename or cached.parent}; set TORCH_HOME to another cache") from None
    except OSError as error:  # of urllib as well
        reason = getattr(error, "reason", None) or error.strerror or error
        raise NetworkError(f"cannot download {place} ({reason}), and it is not in the cache {cached.parent}") from None
    return cached


def weights_from_hub(repository: str, revision: str, name: str) -> Path:
    """The weights in a repository of the Hugging Face hub."""
    found = from_hub(repository, revision, _FILES, name)
    if found is None:
        raise NetworkError(f"{name} has no {' or '.join(_FILES)}; it holds no weights that can be read here")
    return found


def from_hub(repository: str, revision: str, files: tuple[str, ...], name: str) -> Path | None:
    """The first of `files` that a repository of the Hugging Face hub has, in huggingface_hub's cache; none where it has none."""
    try:
        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError:
        raise NetworkError(f"{name} is on the Hugging Face hub: pip install huggingface_hub") from None
    for file in files:
        try:
            return Path(hf_hub_download(repository, file, revision=revision or None, local_files_only=True))
        except LocalEntryNotFoundError:
            continue
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # each of many tries is a warning
    for file in files:
        try:
            if not reachable(constants.ENDPOINT):
                raise LocalEntryNotFoundError("no network")
            found = Path(hf_hub_download(repository, file, revision=revision or None))
        except LocalEntryNotFoundError:
            raise NetworkError(
                f"cannot download {file} of {name} from {constants.ENDPOINT}: there is no network, and it is not in the cache "
                f"{constants.HF_HUB_CACHE}"
            ) from None
        except EntryNotFoundError:
            continue
        except (
            Exception
        ) as error:  # of huggingface_hub and the library below it: no such repository, no right to read it, ...
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise NetworkError(f"cannot download {file} of {name} from {constants.ENDPOINT}: {reason}") from None
        blob = found.resolve().name
        if re.fullmatch(r"[0-9a-f]{64}", blob) and digest(found) != blob:
            raise NetworkError(f"{found} is not what {name} holds: its SHA-256 is another; delete it and try again")
        return found
    return None


def reachable(url: str) -> bool:
    """Whether the name of a host can be looked up, by which a machine without network is known at once, not after many tries;
    where a proxy looks it up, it may be."""
    try:
        return bool(urllib.request.getproxies() or socket.getaddrinfo(urlsplit(url).hostname, None))
    except OSError:
        return False


def config_of(file: Path, name: str) -> dict[str, Any]:
    """What timm's config.json of a repository says of its weights, as metadata."""
    try:
        config = json.loads(file.read_text())
        whole = {**config, **config.get("pretrained_cfg", {})}
        whole |= {key: config[key] for key in ("num_classes", "label_names") if key in config}
        return described(name, whole)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NetworkError(f"the config.json of {name} is none of timm's; its weights cannot be used by name") from None


def digest(file: Path) -> str:
    """The SHA-256 of a file's content."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
