"""The page that shows a run, as HTML (`python engine/report.py RUN_DIR` writes it anew).

Training writes it at the end of every epoch. It is one file that needs no other, on a screen, a phone or paper.
"""

import functools
from pathlib import Path
from typing import Any, Literal

import jinja2
from markupsafe import Markup

from engine.monitoring.report.charts import Series, heat_map, line_chart, number
from engine.monitoring.report.data import (
    Row,
    RunRecord,
    added_to_loss,
    class_scores,
    confused_pairs,
    curve,
    duration,
    options_by_section,
    read_run,
    state_of,
    throughput,
    time_spent,
)

_FOLDER = Path(__file__).parent
_TEMPLATE = "template.html"
_MATRIX_CLASSES = 20
_WORST_CLASSES = 10
_EVENTS = 100


def write_report(run_dir: Path) -> Path:
    """Writes report.html of a run directory, replacing the one before at once, and returns its path.

    Raises ConfigError when it is no run directory, OSError when it cannot be written.
    """
    page = render(read_run(run_dir))
    path, temporary = run_dir / "report.html", run_dir / "report.html.tmp"
    temporary.write_text(page, encoding="utf-8", errors="backslashreplace")  # names of files need not be UTF-8
    temporary.replace(path)
    return path


def render(run: RunRecord, live: bool = False, stamp: str = "") -> str:
    """The page as HTML; `live`: one that a server shows, which follows the run from the state that `stamp` names."""
    state, explanation = state_of(run)
    spans = time_spent(run)
    return template(_TEMPLATE).render(
        live=live,
        stamp=stamp,
        run=run,
        name=run.path.name,
        state=state,
        explanation=explanation,
        tiles=_tiles(run),
        axes=_charts(run),
        spans=spans,
        total=sum(span.seconds for span in spans),
        events=_events(run)[-_EVENTS:],
        events_before=max(len(run.of("event")) - _EVENTS, 0),
        options=options_by_section(run.config),
        **findings_shown(run.findings),
    )


@functools.cache
def template(name: str, folder: Path = _FOLDER) -> jinja2.Template:
    """A page's template, in `folder` or here, compiled once a process, which takes longer than filling it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, _FOLDER]), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"duration": duration, "number": number}
    return environment.get_template(name)


def _tiles(run: RunRecord) -> list[tuple[str, str, str]]:
    """The figures at the top: what, how much, and a remark."""
    train, evals = run.of("train"), run.of("eval")
    tiles = []
    if evals:
        measure = "map" if "map" in evals[-1] else "top1"  # by which the best weights are chosen
        best, last = max(evals, key=lambda row: row[measure]), evals[-1]
        words = "best mAP" if measure == "map" else "best top-1"
        tiles.append((words, f"{best[measure]:.2f}%", f"epoch {number(best['epoch'])}"))
        tiles.append(("last top-1", f"{last['top1']:.2f}%", f"top-5 {last['top5']:.2f}%"))
        tiles.append(("last val loss", f"{last['loss']:.3f}", f"{last['count']:,} images evaluated"))
    if run.rows:
        last = run.rows[-1]
        epochs = run.config.get("schedule", {}).get("epochs", "?")
        tiles.append(("epochs", f"{number(round(last['epoch'], 2))} of {epochs}", f"{last['step']:,} steps"))
        tiles.append(("time", duration(last["time"]), "interruptions left out"))
    speed = throughput(run)
    if speed is not None:
        tiles.append(("training speed", number(speed), "images per second"))
    per_joule = [row["images_per_joule"] for row in train if "images_per_joule" in row]
    if per_joule:
        tiles.append(("energy", number(sum(per_joule) / len(per_joule)), "images per joule"))
    return tiles


def _figures(run: RunRecord) -> list[tuple[str, list[Series], dict[str, Any]]]:
    """All charts: title, curves, and how the values are shown."""
    train, evals = run.of("train"), run.of("eval")

    def training(name: str, colour: int, key: str, factor: float = 1.0) -> Series:
        return Series(name, colour, curve(train, key, factor))

    def evaluation(name: str, colour: int, key: str) -> Series:
        return Series(name, colour, curve(evals, key), dots=True)

    accuracy = [evaluation("top-1 val", 2, "top1"), evaluation("top-5 val", 3, "top5")]
    memory = [training("process", 1, "memory_gib"), training("GPU, peak", 2, "gpu_memory_gib")]
    share = {"unit": "%", "zero": True, "top": 100}
    return [
        ("Accuracy", [training("top-1 training", 1, "top1"), *accuracy], share),
        *_losses(run, training("training", 1, "loss"), evaluation("val", 2, "loss")),
        ("Throughput", [training("images per second", 1, "images_per_second")], {"zero": True}),
        ("Waiting for data", [training("of the time", 2, "data_wait_fraction", 100)], share),
        ("Learning rate", [training("learning rate", 3, "lr")], {"zero": True}),
        ("Gradient norm", [training("gradient norm", 4, "gradient_norm")], {"zero": True, "spikes": True}),
        ("GPU utilisation", [training("of the time", 1, "gpu_utilization", 100)], share),
        ("GPU power", [training("GPUs of a machine", 2, "gpu_power_watts")], {"unit": " W", "zero": True}),
        ("Images per joule", [training("images per joule", 3, "images_per_joule")], {"zero": True}),
        ("Memory", memory, {"unit": " GiB", "zero": True}),
    ]


def _losses(run: RunRecord, training: Series, evaluation: Series) -> list[tuple[str, list[Series], dict[str, Any]]]:
    """One chart where training minimises what evaluation measures, the cross-entropy; else a chart for each, with words."""
    several = any("map" in row for row in run.of("eval"))
    beside = added_to_loss(run.config, several)
    if not beside:
        return [("Loss", [training, evaluation], {"spikes": True})]
    title = f"Training loss, with {' and '.join(beside)}"
    alone = f"Loss on val, {'binary ' if several else ''}cross-entropy alone"
    return [(title, [training], {"spikes": True}), (alone, [evaluation], {"spikes": True})]


def _charts(run: RunRecord) -> list[tuple[str, list[Markup]]]:
    """Every chart against the epoch, and every chart against time."""
    figures = _figures(run)
    seconds = run.rows[-1]["time"] if run.rows else 0.0
    unit, scale = (
        ("seconds", 1.0) if seconds <= 300 else ("minutes", 60.0) if seconds <= 3 * 3600 else ("hours", 3600.0)
    )
    resumed = [row for row in run.of("event") if row["event"] == "resumed"]

    def drawn(across: Literal["epoch", "time"], label: str, scale: float) -> list[Markup]:
        marks = [row[across] for row in resumed]
        charts = [
            line_chart(title, series, across, label, scale, marks=marks, **shown) for title, series, shown in figures
        ]
        return [chart for chart in charts if chart is not None]

    return [("epoch", drawn("epoch", "epoch", 1.0)), ("time", drawn("time", unit, scale))]


def findings_shown(findings: dict[str, Any] | None) -> dict[str, Any]:
    """What `findings.html` shows of an evaluation."""
    if findings is None:
        return {"findings": None}
    scores = class_scores(findings)
    classes, matrix = findings["classes"], findings["matrix"]
    shown: dict[str, Any] = {"findings": findings, "scores": scores[:_WORST_CLASSES], "classes_scored": len(scores)}
    shown["best_scores"] = scores[: _WORST_CLASSES - 1 : -1][:3]
    if matrix is not None and len(classes) <= _MATRIX_CLASSES:
        counts = {(true, guess): count for true, guess, count in matrix}
        shown["matrix"] = [
            (name, [(counts.get((k, guess), 0), counts.get((k, guess), 0) / max(findings["images"][k], 1), guess == k)
                    for guess in range(len(classes))])
            for k, name in enumerate(classes)
        ]  # fmt: skip
    elif matrix is not None:
        shown["heat_map"] = heat_map(findings)
    shown["pairs"] = confused_pairs(findings)
    shown["wrong"] = [picture for picture in findings["pictures"] if picture["label"] != picture["guess"]]
    shown["right"] = [picture for picture in findings["pictures"] if picture["label"] == picture["guess"]]
    return shown


def _events(run: RunRecord) -> list[tuple[Row, str]]:
    """The events, each with a sentence."""
    told = []
    for row in run.of("event"):
        details = [
            str(value) for key, value in row.items() if key not in ("kind", "step", "epoch", "samples", "time", "event")
        ]
        told.append((row, ": ".join([row["event"], *details])))
    if run.end is not None:
        told.append((run.end, state_of(run)[1]))
    return told
