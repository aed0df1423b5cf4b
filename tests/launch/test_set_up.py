"""The set-up of a clone, whole but for the downloads: packages come from a folder of wheels made here, which stand for what
the environment of this test has installed, so that every step runs without an index."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import setuptools

from launch.installation import components
from launch.installation.constraints import pins

ROOT = Path(__file__).resolve().parents[2]
SITE = Path(sysconfig.get_path("purelib"))
BASE = sys._base_executable
COMPONENTS = ("torch", "torchvision", "timm")


def write_wheel(folder: Path, name: str, version: str, files: dict[str, bytes]) -> None:
    """A wheel of `files` beside the records that make it one."""
    stem = f"{name.replace('-', '_')}-{version}"
    files = dict(files)
    files[f"{stem}.dist-info/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    files[f"{stem}.dist-info/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}"
        for path, data in files.items()
    ]
    files[f"{stem}.dist-info/RECORD"] = "\n".join([*record, f"{stem}.dist-info/RECORD,,", ""]).encode()
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)


def requirements() -> tuple[set[str], dict[str, list[str]]]:
    """The names that setup.py needs, and those of each extra."""
    told: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **given: told.update(given))
        patch.chdir(ROOT)
        runpy.run_path(str(ROOT / "setup.py"))
    name = re.compile(r"[\w.-]+")
    needed = {name.match(line)[0].lower() for line in told["install_requires"]}
    return needed, {
        extra: [name.match(line)[0].lower() for line in lines] for extra, lines in told["extras_require"].items()
    }


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Links to what is installed here, but to the libraries of extras: set-up tries each that is there, for many seconds."""
    folder = tmp_path_factory.mktemp("installed")
    extras = [SITE.joinpath(*component.module.split(".")) for component in components.COMPONENTS if component.extra]
    for place in {SITE, *(library.parent for library in extras)}:
        within = folder / place.relative_to(SITE)
        within.mkdir(exist_ok=True)
        for entry in place.iterdir():
            if entry.suffix != ".dist-info" and not any(library.is_relative_to(entry) for library in extras):
                (within / entry.name).symlink_to(entry)
    return folder


@pytest.fixture(scope="module")
def wheels(tmp_path_factory, installed) -> Path:
    """A folder with a wheel for every requirement. torch's leads to the packages that are installed here."""
    folder = tmp_path_factory.mktemp("wheels")
    needed, extras = requirements()
    versions = dict(pins(ROOT / "launch" / "constraints.txt"))
    for name in {*needed, *(name for names in extras.values() for name in names)} - {"setuptools"}:
        leads = {"installed_here.pth": f"{installed}\n".encode()} if name == "torch" else {}
        leads |= {"never_imported.py": b""} if name == "rich" else {}
        write_wheel(folder, name, versions[name.replace("_", "-")], leads)
    source = Path(setuptools.__file__).parents[1]
    backend = {
        str(path.relative_to(source)): path.read_bytes()
        for part in ("setuptools", "_distutils_hack")
        for path in sorted((source / part).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    version = versions["setuptools"]  # by its name, whatever torch's own is here
    commands = metadata.distribution("setuptools").read_text("entry_points.txt") or ""
    backend[f"setuptools-{version}.dist-info/entry_points.txt"] = commands.encode()
    write_wheel(folder, "setuptools", version, backend)
    return folder


@pytest.fixture
def clone(tmp_path) -> Path:
    """The repository's files that set-up reads, in a folder whose name has a space and an umlaut."""
    clone = tmp_path / "mein Übungs klon"
    ignore = shutil.ignore_patterns("__pycache__", "sample", "results")
    for room in ("launch", "inception", "pipelines", "engine", "benchmarks"):
        shutil.copytree(ROOT / room, clone / room, ignore=ignore)
    for file in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / file, clone / file)
    return clone


def programs(folder: Path, *names: str) -> str:
    """A PATH with the system's programs and, of this environment's, `names` alone. Its apt-get finds nothing to install."""
    folder.mkdir(exist_ok=True)
    (folder / "apt-get").write_text("#!/bin/sh\n")
    (folder / "apt-get").chmod(0o755)
    for name in names:
        (folder / name).symlink_to(Path(sys.executable).with_name(name))
    return f"{folder}:/usr/bin:/bin"


def set_up(clone: Path, wheels: Path, *options: str, path: str, base: str = BASE, **variables: str):
    """Runs setup.sh without an index, a home and sudo."""
    environment = {"PATH": path, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), **variables}
    command = ["bash", str(clone / "launch" / "setup.sh"), "--python", base, *options]
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_offline_from_a_folder_of_wheels_in_a_path_with_a_space_and_an_umlaut(installer, clone, wheels, tmp_path):
    path = programs(tmp_path / "bin", *(["uv"] if installer == "uv" else []))
    cache = {"UV_CACHE_DIR": str(tmp_path / "cache"), "PIP_NO_CACHE_DIR": "1"}
    first = set_up(clone, wheels, path=path, **cache)
    log = (clone / ".venv" / "setup.log").read_text()
    assert first.returncode == 0, first.stdout + first.stderr + log[-3000:]
    assert f"together, with {installer} " in first.stdout
    assert "on disk" in first.stdout
    for name in COMPONENTS:
        assert re.search(rf"{name} +\S+ +works", first.stdout), first.stdout
    assert not list(clone.glob("*.egg-info")), "installing wrote into the clone"
    python = clone / ".venv" / "bin" / "python"
    packages = next((clone / ".venv" / "lib").glob("python3*/site-packages"))
    assert not list(packages.glob("onnx-*")), "the extras are for --all"
    assert (packages / "never_imported.py").exists()
    assert not list(packages.glob("__pycache__/never_imported*")), "compiled what nobody imported"
    show = [str(python), "-c", "import launch; print(launch.__file__)"]
    shown = subprocess.run(show, capture_output=True, text=True, cwd="/", env={}, check=False)
    assert shown.stdout.strip() == str(clone / "launch" / "__init__.py")

    stamp = (clone / ".venv" / "setup.stamp").stat().st_mtime_ns
    # The same installation by its other names: bin/python3.x, bin/python and the environment's own.
    for base in (BASE, os.path.realpath(BASE), str(python)):
        again = set_up(clone, wheels, path=path, base=base, **cache)
        assert again.returncode == 0
        assert again.stdout == f"set-up: {clone / '.venv'} is up to date\n"
    assert (clone / ".venv" / "setup.stamp").stat().st_mtime_ns == stamp


def test_extras_come_on_top_and_one_without_a_wheel_is_left_out_in_one_line(clone, wheels, tmp_path):
    path = programs(tmp_path / "bin", "uv")
    shelf = tmp_path / "shelf"
    shutil.copytree(wheels, shelf, ignore=shutil.ignore_patterns("onnxruntime*"))
    cache = {"UV_CACHE_DIR": str(tmp_path / "cache"), "PKG_CONFIG_LIBDIR": str(tmp_path)}
    assert set_up(clone, shelf, path=path, **cache).returncode == 0
    python = clone / ".venv" / "bin" / "python"
    made = python.lstat().st_mtime_ns
    whole = set_up(clone, shelf, "--all", path=path, **cache)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert python.lstat().st_mtime_ns == made, "the environment was made anew for its extras"
    left_out = [line for line in whole.stdout.splitlines() if line.startswith("  extra export")]
    assert len(left_out) == 1
    assert "cannot be had" in left_out[0]
    assert "onnxruntime" in left_out[0]
    listing = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=False).stdout
    assert re.search(r"^deepspeed ", listing, re.M)
    assert re.search(r"^pytest ", listing, re.M)

    # When it can be had, the next call completes the environment, and the one after finds nothing to do.
    completed = set_up(clone, wheels, "--all", path=path, **cache)
    assert completed.returncode == 0
    assert "cannot be had" not in completed.stdout


def test_a_requirement_that_cannot_be_had_ends_set_up_with_what_the_installer_said(clone, wheels, tmp_path):
    shelf = tmp_path / "shelf"
    shutil.copytree(wheels, shelf, ignore=shutil.ignore_patterns("rich*"))
    done = set_up(clone, shelf, path=programs(tmp_path / "bin"))
    assert done.returncode == 1
    assert "    | " in done.stdout
    assert "rich" in done.stdout
    assert not (clone / ".venv" / "setup.stamp").exists()


def test_a_folder_that_is_no_environment_is_left_alone(clone, wheels, tmp_path):
    own = tmp_path / "documents"
    own.mkdir()
    (own / "bin").mkdir()
    (own / "letter.txt").write_text("dear")
    done = set_up(clone, wheels, path=programs(tmp_path / "bin"), INCEPTION_VENV=str(own))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "INCEPTION_VENV" in done.stderr
    assert (own / "letter.txt").exists()
    assert (own / "bin").exists()


def test_a_clone_that_cannot_be_written_names_the_way_out(clone, wheels, tmp_path):
    (clone / ".venv").write_text("in the way, as a read-only file system is for root")
    done = set_up(clone, wheels, path=programs(tmp_path / "bin"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "INCEPTION_VENV" in done.stderr


@pytest.mark.parametrize(
    ("option", "said"),
    [("--torch=2.1", "from 2.11 upward"), ("--torch=new", "from 2.11 upward"), ("--fast", "--fast")],
)
def test_bad_options_are_named(option, said, clone, wheels, tmp_path):
    done = set_up(clone, wheels, option, path=programs(tmp_path / "bin"))
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert not (clone / ".venv").exists()


def test_pythons_are_found_in_pyenvs_and_uvs_folders(clone, tmp_path):
    """Stand-ins that say they were asked and then are this Python; `--help` ends set-up once it has its Python."""
    path = tmp_path / "bin"
    programs(path)
    for program in Path("/usr/bin").iterdir():  # but its Pythons, which would be found first
        if not program.name.startswith("python") and not (path / program.name).exists():
            (path / program.name).symlink_to(program)
    asked = tmp_path / "asked"
    for place in (
        "pyenv/versions/3.12.7/bin/python",
        "pyenv/versions/2.7.18/bin/python",
        "uv/cpython-3.14.0-linux-x86_64-gnu/bin/python",
    ):
        stand_in = tmp_path / place
        stand_in.parent.mkdir(parents=True)
        stand_in.write_text(f'#!/bin/sh\necho {place} >>"{asked}"\nexec "{BASE}" "$@"\n')
        stand_in.chmod(0o755)
    folders = {"PYENV_ROOT": str(tmp_path / "pyenv"), "UV_PYTHON_INSTALL_DIR": str(tmp_path / "uv")}
    for version, place in (("3.12", "pyenv/versions/3.12.7"), ("3.14", "uv/cpython-3.14.0")):
        asked.write_text("")
        done = set_up(clone, tmp_path, "--help", path=str(path), base=version, **folders)
        assert done.returncode == 0, done.stderr
        assert asked.read_text().startswith(place)
        assert "2.7.18" not in asked.read_text()
    missing = set_up(clone, tmp_path, "--help", path=str(path), base="3.99", **folders)
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: --python 3.99 is not")
