"""Tar archives with whatever members a test needs."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
Content = bytes | tuple[bytes, str]  # of a file, or a link's type and target


def archive(
    members: Mapping[str, Content] | Iterable[tuple[str, Content]], form: str = "gnu", **attributes: object
) -> bytes:
    """A tar file of names and contents, in order; attributes: of every member's header."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=FORMATS[form]) as tar:
        for name, content in members.items() if isinstance(members, Mapping) else members:
            member = tarfile.TarInfo(name)
            for key, value in attributes.items():
                setattr(member, key, value)
            if isinstance(content, tuple):
                member.type, member.linkname = content
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def unpack(file: Path | str, folder: Path, count: int | None = None) -> None:
    """The first `count` members of a tar file, or all, as files in `folder`."""
    with tarfile.open(file) as tar:
        # By attribute: the argument of the same meaning is younger than Python 3.11.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # type: ignore[assignment]
        tar.extractall(folder, tar.getmembers()[:count])
