"""The page that shows a run."""

from pathlib import Path


def write_report(run_dir: Path) -> None:
    """Writes report.html into the run directory."""
