"""The page that shows an evaluation, as HTML (`python engine/evaluate.py --report FILE.html`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from engine.config.options import ConfigError
from engine.monitoring.report.charts import Series, line_chart
from engine.monitoring.report.data import Point
from engine.monitoring.report.page import findings_shown, template

_TEMPLATE = "evaluation.html"


def write_evaluation(file: Path, weights: Sequence[str], shown: str, path: str, found: dict[str, Any]) -> None:
    """Writes the page of an evaluation of `weights` on the dataset at `path`; shown: how images were, in words; found: as
    `Findings.found` has it, with by-class accuracy and calibration. Raises ConfigError when it cannot be written."""
    page = template(_TEMPLATE).render(
        weights=weights,
        shown=shown,
        path=path,
        result=found,
        tiles=_tiles(found),
        reliability=reliability_chart(found["reliability"]),
        **findings_shown(found),
    )
    try:
        file.write_text(page, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}") from None


def _tiles(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The figures at the top: what, how much, and a remark."""
    left_out = f"{found['unreadable']:,} could not be read" if found["unreadable"] else "each once"
    tiles = [
        ("top-1", f"{found['top1']:.2f}%", f"{found['mean_class_top1']:.2f}% mean of classes"),
        ("top-5", f"{found['top5']:.2f}%", f"loss {found['loss']:.3f}"),
        ("images", f"{found['count']:,}", left_out),
        ("calibration error", f"{found['ece']:.2f}%", f"worst bin {found['mce']:.2f}%"),
    ]
    if "trained" in found:
        tiles.append(("top-1, trained weights", f"{found['trained']['top1']:.2f}%", "without averaging"))
    if "top1_among" in found:
        tiles.append(("top-1, restricted", f"{found['top1_among']:.2f}%", "among the dataset's classes"))
    if "real_top1" in found:
        tiles.append(("top-1, ReaL", f"{found['real_top1']:.2f}%", f"{found['real_count']:,} images"))
    return tiles


def reliability_chart(bins: Sequence[dict[str, Any]]) -> Markup | None:
    """Accuracy against confidence, a dot a bin, beside the line of a network that is as often right as it is sure."""

    def points(values: Sequence[tuple[float, float]]) -> list[Point]:
        return [Point(x, x, y, y, y) for x, y in values]

    measured = points([(row["confidence"], row["accuracy"]) for row in bins])
    curves = [Series("calibrated", 5, points([(0, 0), (100, 100)])), Series("accuracy", 1, measured, dots=True)]
    return line_chart("Reliability", curves, "epoch", "confidence, %", unit="%", zero=True, top=100)
