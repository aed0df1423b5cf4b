"""The state of the source that a run or a measurement was made with, also where git is not installed."""

import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def describe_source(root: Path = ROOT) -> dict[str, Any]:
    """commit: of the clone in `root`; date: of the commit; changed_files: how many differ from it. Without git only the
    commit is known; nothing is where `root` is no clone."""
    if not (root / ".git").exists():
        return {}
    try:
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
        date = _git(root, "show", "-s", "--format=%cI", "HEAD")
        commit = _git(root, "rev-parse", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return {"commit": found} if (found := _commit(root)) else {}
    return {"commit": commit, "date": date, "changed_files": len(changed.splitlines())}


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def _commit(root: Path) -> str | None:
    """The commit that HEAD names, read from git's files (gitrepository-layout); None for a layout it does not know."""
    try:
        place = root / ".git"
        if place.is_file():  # a worktree's
            place = root / place.read_text().partition("gitdir: ")[2].strip()
        head = (place / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        reference = head.removeprefix("ref: ")
        shared = place / "commondir"
        common = place / shared.read_text().strip() if shared.exists() else place
        if (common / reference).exists():
            return (common / reference).read_text().strip()
        packed = (common / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {reference}")), None)
    except OSError:
        return None
