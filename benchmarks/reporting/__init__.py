"""Results as files, pictures of them, and advice in words. What every script needs stands here."""

from benchmarks.reporting.results import Result, number
from benchmarks.reporting.study import Study

__all__ = ["Result", "Study", "number"]
