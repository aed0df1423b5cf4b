"""The distribution's packages that compiling needs: which are missing, by the names of its package manager."""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

COMMAND = ["bash", str(Path(__file__).with_name("system.sh"))]

# What is needed: (name for apt-get, name for dnf).
_COMPILER = ("g++", "gcc-c++")
_JPEG = ("libjpeg-dev", "libjpeg-turbo-devel")
_PKG_CONFIG = ("pkg-config", "pkgconf-pkg-config")
_OPENCV = ("libopencv-dev", "opencv-devel")
_TURBOJPEG = ("libturbojpeg0-dev", "turbojpeg-devel")


def may_install() -> bool:
    """Whether packages can be installed without asking: a manager is known, and this is root or sudo asks nothing."""
    return bool(_manager()) and _calls("may_install")


def can_compile() -> bool:
    """Whether the compiled decoder and what torch.compile generates can be built."""
    return not _missing_to_compile()


def ffcv_can_build() -> bool:
    return can_compile() and not _missing_for_ffcv()


def missing_packages(everything: bool) -> list[str]:
    """Names of what is missing to compile, and with `everything` to build FFCV."""
    missing = _missing_to_compile() + (_missing_for_ffcv() if everything else [])
    return [dnf if _manager() == "dnf" else apt for apt, dnf in missing]


def name() -> str:
    """What the distribution calls itself."""
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.platform()


def _missing_to_compile() -> list[tuple[str, str]]:
    missing = []
    if not (shutil.which("c++") and shutil.which("cc")):
        missing.append(_COMPILER)
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        missing.append(_python_headers())
    if not _finds_header("jpeglib.h"):
        missing.append(_JPEG)
    return missing


def _missing_for_ffcv() -> list[tuple[str, str]]:
    if not shutil.which("pkg-config"):
        return [_PKG_CONFIG, _OPENCV, _TURBOJPEG]
    wanted = {"opencv4": _OPENCV, "libturbojpeg": _TURBOJPEG}
    found = {name: subprocess.run(["pkg-config", "--exists", name], check=False).returncode == 0 for name in wanted}
    return [package for name, package in wanted.items() if not found[name]]


def _python_headers() -> tuple[str, str]:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    # Fedora's own Python has no number in its packages' names; others beside it, as on Rocky 9, have.
    own = os.path.realpath("/usr/bin/python3").endswith(version)
    return f"python{version}-dev", "python3-devel" if own else f"python{version}-devel"


def _finds_header(header: str) -> bool:
    """Whether the C compiler finds a header; where there is none, whether it lies in the usual place."""
    compiler = shutil.which("cc")
    if compiler is None:
        return Path("/usr/include", header).exists()
    # jpeglib.h uses size_t and FILE without including what declares them.
    program = f"#include <stddef.h>\n#include <stdio.h>\n#include <{header}>\n"
    command = [compiler, "-fsyntax-only", "-x", "c", "-"]
    return subprocess.run(command, input=program.encode(), capture_output=True, check=False).returncode == 0


def _manager() -> str:
    return subprocess.run([*COMMAND, "manager"], capture_output=True, text=True, check=False).stdout.strip()


def _calls(function: str) -> bool:
    return subprocess.run([*COMMAND, function], capture_output=True, check=False).returncode == 0
