"""Several runs beside each other: their curves in the same charts, the options that differ, where their time went."""

from collections.abc import Mapping
from typing import Any, Literal

from markupsafe import Markup

from engine.monitoring.report.charts import Series, line_chart
from engine.monitoring.report.data import Option, RunRecord, Span, curve, options_by_section, throughput, time_spent

MOST = 8  # runs, each with a colour of its own
_CHARTS: tuple[tuple[str, str, str, float, dict[str, Any]], ...] = (
    ("Top-1 on val", "eval", "top1", 1.0, {"unit": "%", "zero": True, "top": 100}),
    ("Loss on val", "eval", "loss", 1.0, {"spikes": True}),
    ("Training loss", "train", "loss", 1.0, {"spikes": True}),
    ("Images per second", "train", "images_per_second", 1.0, {"zero": True}),
    ("Waiting for data", "train", "data_wait_fraction", 100.0, {"unit": "%", "zero": True, "top": 100}),
    ("Learning rate", "train", "lr", 1.0, {"zero": True}),
)


def compare(runs: Mapping[str, RunRecord]) -> dict[str, Any]:
    """What the page of several runs, by name, shows."""
    return {
        "names": list(runs),
        "axes": [("epoch", _charts(runs, "epoch", "epoch", 1.0)), ("time", _charts(runs, "time", "minutes", 60.0))],
        "differing": differing_options(runs),
        "times": [(name, *_time(run)) for name, run in runs.items()],
    }


def _charts(runs: Mapping[str, RunRecord], across: Literal["epoch", "time"], label: str, scale: float) -> list[Markup]:
    charts = []
    for title, kind, key, factor, shown in _CHARTS:
        series = [
            Series(name, colour, curve(run.of(kind), key, factor), dots=kind == "eval")
            for colour, (name, run) in enumerate(runs.items(), 1)
        ]
        charts.append(line_chart(title, series, across, label, scale, **shown))
    return [chart for chart in charts if chart is not None]


def differing_options(runs: Mapping[str, RunRecord]) -> list[tuple[str, list[Option | None]]]:
    """The options that are not alike in all runs, by dotted name, each with every run's; None in a run without it."""
    each = [
        {
            (section, option.name): option
            for section, options in options_by_section(run.config).items()
            for option in options
        }
        for run in runs.values()
    ]
    keys = dict.fromkeys(key for options in each for key in options)
    return [
        (name if section == "general" else f"{section}.{name}", [options.get((section, name)) for options in each])
        for section, name in keys
        if (section, name) != ("run", "dir") and len({_value(options.get((section, name))) for options in each}) > 1
    ]


def _value(option: Option | None) -> str | None:
    return None if option is None else option.value


def _time(run: RunRecord) -> tuple[list[Span], float, float | None]:
    spans = time_spent(run)
    return spans, sum(span.seconds for span in spans), throughput(run)
