"""Predictions as a picture: every image as the network saw it, with its most likely classes."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from engine.evaluation.settings import Settings
from engine.inference.classify import Prediction, read_image

PIXELS = 160  # of an image on the sheet
MOST = 100  # images on a sheet; more would be stamps
_SHOWN = 3  # classes under an image


def draw_sheet(predictions: Sequence[Prediction], settings: Settings, file: Path) -> str:
    """Writes the sheet (the first `MOST` images) in the format that the name of `file` tells; returns a note in words.

    Raises OSError when it cannot be written and ValueError for a name whose format is not known.
    """
    shown, share = predictions[:MOST], PIXELS / settings.resolution
    small = replace(settings, resolution=PIXELS, resize=round(settings.resize * share))
    columns = min(len(shown), max(4, math.ceil(math.sqrt(len(shown)))))
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(2.1 * columns, 2.75 * rows), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for prediction, axes in zip(shown, figure.subplots(rows, columns, squeeze=False).flat):
        if prediction.problem:
            axes.text(0.5, 0.5, "could not be read", ha="center", va="center", color="darkred", fontsize=8)
        else:
            axes.imshow(read_image(prediction.image, small).permute(1, 2, 0).numpy())
        title = textwrap.shorten(_drawable(prediction.image.name), 26)
        axes.set_title(title, fontsize=7, color="dimgray", parse_math=False)
        names = [textwrap.shorten(_drawable(guess.name), 22, placeholder=" ...") for guess in prediction.guesses]
        lines = [f"{guess.percent:.1f}%  {name}" for guess, name in zip(prediction.guesses, names)]
        axes.set_xlabel("\n".join(lines[:_SHOWN]), fontsize=7, loc="left", parse_math=False)
    for axes in figure.axes:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_frame_on(bool(axes.get_title()))
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)
    return f"{len(shown)} of {len(predictions)} images" if len(shown) < len(predictions) else f"{len(shown)} images"


def _drawable(name: str) -> str:
    """A name as a font can draw it: what is not UTF-8 becomes an escape."""
    return name.encode("utf-8", "backslashreplace").decode()
