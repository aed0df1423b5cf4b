"""What a run directory tells about its run, read and summed up for the report. Nothing here draws."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from engine.config.options import Config, ConfigError, flat, leaves
from engine.runs.metrics_file import MetricsFile
from inception.registry import DESIGNS

Row = dict[str, Any]

# The shares of a row, in the order of a step, with the words a reader sees.
PHASES = {
    "data_wait_fraction": "waiting for data",
    "forward_fraction": "forward pass",
    "backward_fraction": "backward pass",
    "communication_fraction": "waiting for gradients of other ranks",
    "optimizer_fraction": "optimizer",
}


@dataclass(frozen=True)
class RunRecord:
    """A run directory's rows by kind, its configuration and environment, and its last evaluation's findings."""

    path: Path
    rows: list[Row]
    config: dict[str, Any]
    environment: dict[str, Any]
    findings: dict[str, Any] | None

    def of(self, kind: str) -> list[Row]:
        """The rows of one kind."""
        return [row for row in self.rows if row["kind"] == kind]

    @property
    def end(self) -> Row | None:
        """The row that ended the run, if it has ended."""
        return next((row for row in reversed(self.rows) if row["kind"] == "end"), None)


def read_run(run_dir: Path) -> RunRecord:
    """Reads a run directory. Raises ConfigError when it is none."""
    file = MetricsFile(run_dir / "metrics.jsonl")
    if not file.path.exists() and not (run_dir / "config.yaml").exists():
        raise ConfigError(f"{run_dir} is no run directory: it holds neither metrics.jsonl nor config.yaml")
    return RunRecord(
        run_dir.absolute(),
        file.rows(),
        _read(run_dir / "config.yaml", yaml.safe_load) or {},
        _read(run_dir / "environment.json", json.loads) or {},
        _read(run_dir / "evaluation.json", json.loads),
    )


def _read(path: Path, parse: Callable[[str], Any]) -> Any:
    return parse(path.read_text()) if path.exists() else None


class Point(NamedTuple):
    """Neighbouring rows of a curve as one point: their mean epoch, time in seconds and value, and the range of values."""

    epoch: float
    time: float
    value: float
    low: float
    high: float


def curve(rows: Sequence[Row], key: str, factor: float = 1.0, most: int = 240) -> list[Point]:
    """`key` times `factor` over the rows that have it, as at most `most` points, so that a long run's page stays small."""
    found = [(row["epoch"], row["time"], row[key] * factor) for row in rows if row.get(key) is not None]
    size = -(-len(found) // most) or 1
    points = []
    for start in range(0, len(found), size):
        epochs, times, values = zip(*found[start : start + size])
        count = len(values)
        points.append(Point(sum(epochs) / count, sum(times) / count, sum(values) / count, min(values), max(values)))
    return points


class Span(NamedTuple):
    """A part of the run's time: what it went to, its key, and how long it was in seconds."""

    name: str
    key: str
    seconds: float


def time_spent(run: RunRecord) -> list[Span]:
    """Where the whole time of the run went; empty while there are no rows that tell.

    Phases are timed on a sample of the steps: the sample's shares stand for all steps.
    """
    train = [row for row in run.of("train") if row.get("seconds")]
    if not train:
        return []
    training = sum(row["seconds"] for row in train)
    spans = []
    for key, name in PHASES.items():
        sampled = [row for row in train if key in row]
        if sampled:
            share = sum(row[key] * row["seconds"] for row in sampled) / sum(row["seconds"] for row in sampled)
            spans.append(Span(name, key.removesuffix("_fraction"), share * training))
    spans.append(Span("other work in the training loop", "loop", max(training - sum(s.seconds for s in spans), 0.0)))
    evaluating = sum(row.get("seconds", 0.0) for row in run.of("eval"))
    if evaluating:
        spans.append(Span("evaluation", "evaluation", evaluating))
    rest = run.rows[-1]["time"] - training - evaluating
    spans.append(Span("start-up, compiling, saving", "rest", max(rest, 0.0)))
    return spans


def throughput(run: RunRecord) -> float | None:
    """Images per second over all training steps, evaluation and start-up left out."""
    train = [row for row in run.of("train") if row.get("seconds")]
    seconds = sum(row["seconds"] for row in train)
    return sum(row["images_per_second"] * row["seconds"] for row in train) / seconds if seconds else None


def added_to_loss(config: dict[str, Any], several: bool = False) -> list[str]:
    """In words, what a run's training minimises beside the plain cross-entropy that evaluation measures."""
    loss, network, augmentation = (config.get(section, {}) for section in ("loss", "network", "augmentation"))
    words = []
    if loss.get("name") == "bce" and not several:  # of several labels, evaluation measures it too
        words.append("binary cross-entropy")
    if loss.get("class_weights"):
        words.append("weights of classes")
    if config.get("distillation", {}).get("teacher"):
        words.append("a teacher's answers")
    if loss.get("label_smoothing"):
        words.append(f"label smoothing of {loss['label_smoothing']:g}")
    words += [name for name in ("mixup", "cutmix") if augmentation.get(name)]
    page = DESIGNS.get(network.get("name", ""))
    design = page() if page else None
    heads = bool(design and design.auxiliary and design.auxiliary_by_default)
    if loss.get("auxiliary_weight") != 0 and (network.get("auxiliary") or (network.get("auxiliary") is None and heads)):
        words.append("auxiliary classifiers' losses")
    return words


class ClassScore(NamedTuple):
    """How one class fared in the last evaluation: images, right answers, and the wrong answer given most often."""

    name: str
    images: int
    right: int
    mistaken_for: str | None
    times: int


def class_scores(findings: dict[str, Any]) -> list[ClassScore]:
    """The classes that were evaluated, the worst first."""
    names = findings["classes"]
    worst: dict[int, tuple[int, int]] = {}
    for true, guess, count in findings["matrix"] or []:
        if true != guess and count > worst.get(true, (0, 0))[0]:
            worst[true] = (count, guess)
    scores = []
    for k, (name, images, right) in enumerate(zip(names, findings["images"], findings["right"])):
        times, guess = worst.get(k, (0, -1))
        if images:
            scores.append(ClassScore(name, images, right, names[guess] if times else None, times))
    return sorted(scores, key=lambda score: (score.right / score.images, -score.images))


class Confusion(NamedTuple):
    """Two classes that are taken for each other: how often the first for the second, and the other way round."""

    first: str
    second: str
    there: int
    back: int


def confused_pairs(findings: dict[str, Any], most: int = 10) -> list[Confusion]:
    """The pairs of classes confused most often, in both directions together."""
    names = findings["classes"]
    counts = {(true, guess): count for true, guess, count in findings["matrix"] or [] if true != guess}
    pairs = {}
    for (true, guess), count in counts.items():
        back = counts.get((guess, true), 0)
        if (guess, true) not in pairs:
            pairs[true, guess] = (count, back)
    ordered = sorted(pairs.items(), key=lambda item: -sum(item[1]))[:most]
    return [
        Confusion(names[a], names[b], there, back) if there >= back else Confusion(names[b], names[a], back, there)
        for (a, b), (there, back) in ordered
    ]


class Option(NamedTuple):
    """One option of the configuration and whether it differs from its default."""

    name: str
    value: str
    changed: bool


def options_by_section(config: dict[str, Any]) -> dict[str, list[Option]]:
    """The configuration's options by section; single options are under "general"."""
    defaults = dict(leaves(Config()))
    sections: dict[str, list[Option]] = {}
    for section, values in config.items():
        for name, value in flat(values) if isinstance(values, dict) else [(section, values)]:
            key, home = (f"{section}.{name}", section) if isinstance(values, dict) else (name, "general")
            default = defaults.get(key)
            changed = key not in defaults or value != (list(default) if isinstance(default, tuple) else default)
            sections.setdefault(home, []).append(Option(name, _shown(value), changed))
    return sections


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return " to ".join(_shown(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value) if value != "" else "–"


_OF_STATE = ("preempted", "resumed")  # events that say whether it goes on


def state_of(run: RunRecord) -> tuple[str, str]:
    """A word for the run's state (finished, interrupted, unfinished) and a sentence that says more."""
    if not run.rows:
        return "unfinished", "no step is recorded yet"
    last, end = run.rows[-1], run.end
    told = next((row for row in reversed(run.rows) if row["kind"] == "train" or row.get("event") in _OF_STATE), last)
    if end is not None:
        if end["reason"] == "target":
            return "finished", f"target reached after {duration(end['seconds_to_target'])}"
        if end["reason"] == "stopped early":
            return "finished", f"stopped early in epoch {end['epoch']:g}: evaluations brought no better accuracy"
        return "finished", "all epochs are done"
    if told.get("event") == "preempted":
        return "interrupted", f"asked to stop at step {told['step']:,}; the same command continues from there"
    now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return "unfinished", f"not ended as of {now}; the last row is of step {last['step']:,}"


def duration(seconds: float) -> str:
    """12.3 s, 4 min 05 s, 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
