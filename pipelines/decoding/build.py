"""Compiles C on first use, for this machine, and loads what was compiled once it has shown that it works.

What is kept goes by all that it depends on: the source, the compiler's command, the processor, the C library, libjpeg's headers
and its library. A home directory may be shared by machines and containers in which each of these is another.
"""

import ctypes
import os
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from pipelines.support.cache import user_cache
from pipelines.support.locks import machine_lock

_HEADERS = ("jpeglib.h", "jconfig.h", "jmorecfg.h", "jerror.h")


def loaded(
    name: str, sources: Sequence[Path], command: Sequence[str], wrong: Callable[[ctypes.CDLL], str]
) -> tuple[ctypes.CDLL | None, str]:
    """The library made of sources[0], compiled first where none is kept that works; or nothing and why.

    sources: the file to compile, and those it includes; wrong: prepares a loaded library, tries it, and says what is wrong.
    """
    file = user_cache() / f"{name}-{_fingerprint(sources, command)}.so"
    failure = file.with_suffix(".failed")
    try:
        found, why = _tried(file, wrong)
        if found is not None:
            return found, ""
        file.parent.mkdir(parents=True, exist_ok=True)
        with machine_lock(file.with_suffix(".lock"), announce=False):
            found, why = _tried(file, wrong)  # another process may have made it
            if found is None and failure.exists():
                return None, failure.read_text()
            if found is None:
                _compile(sources[0], command, file)
                found, why = _tried(file, wrong)
                if found is None:  # nothing would change at the next try
                    failure.write_text(why)
    except subprocess.CalledProcessError as error:
        return None, next((line for line in error.stderr.splitlines() if "error" in line), "the C compiler failed")
    except OSError as error:
        return None, f"{error.filename or file}: {error.strerror or error}"
    return found, why


def _tried(file: Path, wrong: Callable[[ctypes.CDLL], str]) -> tuple[ctypes.CDLL | None, str]:
    if not file.exists():
        return None, "it was not compiled"
    try:
        library = ctypes.CDLL(str(file))
        why = wrong(library)
    except (OSError, AttributeError) as error:  # made for another machine, cut off, or no such library
        return None, str(error)
    return (None, why) if why else (library, "")


def _compile(source: Path, command: Sequence[str], file: Path) -> None:
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        made = Path(folder) / file.name
        subprocess.run([*command, str(source), "-o", str(made), "-ljpeg"], check=True, capture_output=True, text=True)
        made.rename(file)


def _fingerprint(sources: Sequence[Path], command: Sequence[str]) -> str:
    """What the compiled file depends on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = [line for line in lines if line.startswith(("flags", "Features"))][:1]
    digest = sha256(repr((tuple(command), processor, os.confstr("CS_GNU_LIBC_VERSION"))).encode())
    for file in (*sources, *_headers(), *_libraries()):
        digest.update(sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _headers() -> Iterator[Path]:
    folders = ["/usr/local/include", f"/usr/include/{sysconfig.get_config_var('MULTIARCH')}", "/usr/include"]
    given = [folder for name in ("CPATH", "C_INCLUDE_PATH") for folder in os.environ.get(name, "").split(":") if folder]
    return (file for folder in (*given, *folders) for name in _HEADERS if (file := Path(folder, name)).is_file())


def _libraries() -> Iterator[Path]:
    """libjpeg where the compiler and the loader look for it; each file once."""
    machine = sysconfig.get_config_var("MULTIARCH")
    folders = ["/usr/local/lib", f"/usr/lib/{machine}", f"/lib/{machine}", "/usr/lib64", "/lib64", "/usr/lib", "/lib"]
    given = [f for name in ("LIBRARY_PATH", "LD_LIBRARY_PATH") for f in os.environ.get(name, "").split(":") if f]
    found = {file.resolve(): None for folder in (*given, *folders) for file in sorted(Path(folder).glob("libjpeg.so*"))}
    return (file for file in found if file.is_file())
