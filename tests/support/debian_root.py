"""Another release of Debian in a folder, made by debootstrap and entered by chroot: a machine with nothing installed, whose
network, processors and driver are this one's."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

# How packages are reached from here is how they are reached from there.
_SETTINGS = ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf")
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_COPIED_CERTIFICATES = "/etc/ssl/of-this-machine.crt"  # where no package writes its own
_SCRIPTS = Path("/usr/share/debootstrap/scripts")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HOME_SETTINGS = (".config/pip/pip.conf", ".pip/pip.conf")
_VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "CI")


class DebianRoot:
    """The root in `folder`; `debian_root` makes one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def copy(self, source: Path, place: str) -> None:
        """Copies a clone's files to the absolute path `place` in the root, as `copy_clone` does."""
        copy_clone(source, self.folder / place.lstrip("/"))

    def run(self, command: str, *, user: str = "", timeout: float = 3600) -> subprocess.CompletedProcess[str]:
        """Runs a line of bash in the root, as root or as `user` (UID:GID), with no more of the environment than the way
        to the network."""
        kept = {name: os.environ[name] for name in os.environ if name in _VARIABLES or name.startswith("PIP_")}
        settings = {"PATH": _PATH, "LANG": "C.UTF-8", **kept}
        if (self.folder / _COPIED_CERTIFICATES[1:]).exists():
            settings |= {"PIP_CERT": _COPIED_CERTIFICATES, "SSL_CERT_FILE": _COPIED_CERTIFICATES}
        if not user:
            settings["HOME"] = "/root"
        enter = ["chroot", *([f"--userspec={user}"] if user else []), str(self.folder), "bash", "-c", command]
        with subprocess.Popen(
            enter, env=settings, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        ) as process:  # fmt: skip
            try:
                stdout, stderr = process.communicate(timeout=timeout)
            except BaseException:  # an interrupt or the limit: what was begun in the root ends, too
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return subprocess.CompletedProcess(enter, process.returncode, stdout, stderr)


@contextmanager
def debian_root(suite: str, folder: Path) -> Iterator[DebianRoot]:
    """A minimal root of a release (trixie, forky, sid) in the empty `folder`, with /proc, /dev and /sys while it is in
    use; removed at the end. Raises RuntimeError saying why there can be none here."""
    if reason := why_not():
        raise RuntimeError(reason)
    # A release that is younger than the debootstrap here is made like the one that all releases come from.
    script = [] if (_SCRIPTS / suite).exists() else ["", "sid"]
    with ExitStack() as mounted:
        mounted.callback(_remove, folder)
        _run("debootstrap", "--variant=minbase", suite, str(folder), *script)
        _copy_settings(folder)
        for name in ("proc", "sys", "dev"):
            _run("mount", "--rbind", f"/{name}", str(folder / name))
            # What is mounted below stays where it is when this is taken away.
            _run("mount", "--make-rslave", str(folder / name))
            mounted.callback(_run, "umount", "--recursive", "--lazy", str(folder / name))
        yield DebianRoot(folder)


def _remove(folder: Path) -> None:
    """Removes a root, but never through a mount into this machine's own /dev."""
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    # Spaces and the like are written as octal numbers there.
    places = [re.sub(r"\\(\d{3})", lambda digits: chr(int(digits[1], 8)), place) for place in mounted]
    still = [place for place in places if Path(place).is_relative_to(folder.resolve())]
    if still:
        raise RuntimeError(f"{folder} is left as it is: {still[0]} is still mounted")
    shutil.rmtree(folder, ignore_errors=True)


def why_not() -> str:
    """Why no root can be made here, or nothing; installs debootstrap where it is missing and may be."""
    if os.geteuid() != 0:
        return "another Debian needs root, for debootstrap and chroot"
    if not shutil.which("debootstrap"):
        if not shutil.which("apt-get"):
            return "another Debian needs debootstrap, and there is no apt-get to install it"
        for command in (["apt-get", "-q", "update"], ["apt-get", "-y", "-q", "install", "debootstrap"]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                return f"debootstrap cannot be installed: {(done.stderr.strip().splitlines() or ['no word'])[-1]}"
    return ""


def _copy_settings(folder: Path) -> None:
    # A mirror may be a copy whose lists have passed their date.
    settings = folder / "etc" / "apt" / "apt.conf.d"
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "dates").write_text('Acquire::Check-Valid-Until "false";\n')
    places = {Path(name): Path(name) for name in _SETTINGS} | {_CERTIFICATES: Path(_COPIED_CERTIFICATES)}
    places |= {Path.home() / name: Path("/root", name) for name in _HOME_SETTINGS}
    for here, there in places.items():
        if here.exists():
            target = folder / str(there).lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(here, target)


def copy_clone(source: Path, target: Path) -> None:
    """Clones `source` with its last commit alone; then copies its files as they are now, without what is ignored."""
    _run("git", "clone", "--depth=1", f"file://{source}", str(target))
    for name in _files_of(source):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / name, target / name)


def _files_of(clone: Path) -> Sequence[str]:
    command = ["git", "-C", str(clone), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split("\0") if name and (clone / name).is_file()]


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no word"]
        raise RuntimeError(f"{command[0]} failed: {said[-1]}")
