"""How things are measured: subjects in turns, the machine and its limits, operations and bytes, photos, summaries.

What most scripts need stands here."""

from benchmarks.measuring.command_line import PRECISIONS, BenchmarkError, Parser, as_arguments, positive, synthetic
from benchmarks.measuring.machine import RESULTS, ROOT, machine_line
from benchmarks.measuring.measure import Measurement, Subject, Window, alternate, drained, one_line, repeated
from benchmarks.measuring.summaries import Ratio, change_beyond_noise, paired_ratio, summarise, t_interval

__all__ = [
    "PRECISIONS", "RESULTS", "ROOT", "BenchmarkError", "Measurement", "Parser", "Ratio", "Subject", "Window",
    "alternate", "as_arguments", "change_beyond_noise", "drained", "machine_line", "one_line", "paired_ratio", "positive",
    "repeated", "summarise", "synthetic", "t_interval",
]  # fmt: skip
