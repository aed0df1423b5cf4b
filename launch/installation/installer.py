"""Makes the virtual environment and puts packages into it: with uv where it is on the path, else with pip."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launch.installation.constraints import compiled_names
from launch.installation.indexes import pip_settings, uv_options, uv_variables
from launch.installation.stages import Stages

CPU_INDEX = "https://download.pytorch.org/whl/cpu"


@dataclass
class Installer:
    """Commands that install into the environment `venv`, from where pip is told to take packages.

    root: the clone, installed as it lies there; constraints: the file of versions to keep to; requirements: what to
    install beside the package, and `indexes` where else to look for it.
    """

    root: Path
    venv: Path
    constraints: Path
    requirements: list[str] = field(default_factory=list)
    indexes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.python = str(self.venv / "bin" / "python")
        self._uv = shutil.which("uv")

    def name(self) -> str:
        """The program that installs, with its version."""
        command = [self._uv] if self._uv else [self.python, "-m", "pip"]
        said = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False).stdout
        return " ".join(said.split()[:2]) or command[-1]

    def make(self) -> list[str]:
        """The command that makes the environment of the Python that runs this."""
        try:
            import ensurepip  # noqa: F401 - Debian keeps it in a package of its own
        except ImportError:
            return [str(self._uv), "venv", "--seed", "--allow-existing", "--python", sys.executable, str(self.venv)]
        return [sys.executable, "-m", "venv", str(self.venv)]

    def package(self, stages: Stages, label: str, extras: Sequence[str] = (), quiet: bool = False) -> bool:
        """Installs the clone with `extras` as one stage; whether that went well."""
        target = f"{self.root}[{','.join(extras)}]" if extras else str(self.root)
        options = ["--constraint", str(self.constraints), *self.requirements, "--editable", target]
        command = [*self._install(), *options]
        # What is made from the clone's own setup.py lies here, so that a clone nobody may write to can be installed.
        settings = self.venv / "build.cfg"
        (self.venv / "build").mkdir(exist_ok=True)
        settings.write_text(f"[egg_info]\negg_base = {self.venv / 'build'}\n")
        return stages.run(label, command, {**self._variables(), "DIST_EXTRA_CONFIG": str(settings)}, quiet)

    def has(self, requirements: Sequence[str], indexes: Sequence[str]) -> bool:
        """Whether all `requirements` can be had as wheels for this Python, with `indexes` too; asks once, briefly."""
        command = [self.python, "-m", "pip", "install", "--dry-run", "--no-deps", "--only-binary=:all:", "--retries=0"]
        command += ["--timeout=15", "--no-input", "--disable-pip-version-check", "--ignore-installed"]
        command += [f"--extra-index-url={index}" for index in indexes]
        return subprocess.run([*command, *requirements], capture_output=True, check=False).returncode == 0

    def remove(self, stages: Stages, name: str) -> None:
        """Uninstalls one distribution, if it is there."""
        command = [self._uv, "pip", "uninstall", "--python", self.python, name] if self._uv else []
        command = command or [self.python, "-m", "pip", "uninstall", "--yes", name]
        stages.run(f"without {name}", command)

    def _install(self) -> list[str]:
        """The beginning of a command that installs."""
        # Of what is compiled take wheels only: a source that takes an hour to build, or fails in it, is no way out.
        compiled = [f"--only-binary={name}" for name in compiled_names(self.root / "launch" / "constraints.txt")]
        if self._uv:
            options = uv_options(pip_settings(self.python), os.environ)
            options += [word for index in self.indexes for word in ("--index", index)]
            return [self._uv, "pip", "install", "--no-progress", "--python", self.python, *options, *compiled]
        # Like uv: Python compiles the modules that are used, which are few, when they are.
        options = ["--no-input", "--disable-pip-version-check", "--progress-bar=off", "--retries=10", "--no-compile"]
        options += [f"--extra-index-url={index}" for index in self.indexes]
        return [self.python, "-m", "pip", "install", *options, *compiled]

    def _variables(self) -> dict[str, str]:
        return uv_variables(pip_settings(self.python), os.environ) if self._uv else {}
