"""What repeated measurements say: median, spread, confidence intervals, and whether two sets differ past the noise."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

_CONFIDENCE = 0.95
_RESAMPLES = 2000

Values = Sequence[float] | NDArray[np.float64]
Statistic = Callable[[NDArray[np.float64], int], NDArray[np.float64]]


@dataclass(frozen=True)
class Summary:
    """Repeated measurements of one quantity, in its unit.

    `low` and `high` bound the median with 95% confidence (percentile bootstrap); with fewer than three values they are
    the smallest and the largest. `spread` is the distance between the quartiles over the median.
    """

    median: float
    spread: float
    low: float
    high: float
    p95: float


def summarise(values: Values) -> Summary:
    """The summary of at least one finite value. Raises ValueError otherwise."""
    array = _checked(values)
    lower, median, upper, p95 = map(float, np.percentile(array, [25, 50, 75, 95]))
    return Summary(median, (upper - lower) / abs(median) if median else 0.0, *_median_interval(array), p95)


def _median_interval(array: NDArray[np.float64]) -> tuple[float, float]:
    return bootstrap_interval(array) if len(array) > 2 else (float(array.min()), float(array.max()))


def bootstrap_interval(values: Values, statistic: Statistic = np.median) -> tuple[float, float]:
    """The percentile bootstrap interval of `statistic(values, axis)` (Efron, 1979). The same values give the same
    interval. With few values it is somewhat narrow, as every bootstrap is; `t_interval` is exact for normal ones."""
    array = _checked(values)
    picks = np.random.default_rng(0).integers(0, len(array), (_RESAMPLES, len(array)))
    low, high = np.quantile(statistic(array[picks], 1), [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return float(low), float(high)


def t_interval(values: Values) -> tuple[float, float]:
    """Student's interval of the mean, exact for values from a normal distribution; infinite for a single value."""
    array = _checked(values)
    if len(array) < 2:
        return -math.inf, math.inf
    half = stats.t.ppf((1 + _CONFIDENCE) / 2, len(array) - 1) * stats.sem(array)
    return float(array.mean() - half), float(array.mean() + half)


@dataclass(frozen=True)
class Ratio:
    """How many times larger the first quantity is than the second, with a 95% confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f}x ({self.low:.2f} to {self.high:.2f})"


def paired_ratio(first: Values, second: Values) -> Ratio:
    """The median of `first / second` over windows measured in alternation, which cancels what slows both.

    Raises ValueError when the two do not pair up.
    """
    above, below = _checked(first), _checked(second)
    if len(above) != len(below):
        raise ValueError(f"{len(above)} and {len(below)} values do not pair up")
    return Ratio(float(np.median(above / below)), *_median_interval(above / below))


def change_beyond_noise(newest: Values, previous: Values, tolerance: float = 0.03) -> float | None:
    """The relative change of the median, or None where the noise or `tolerance` explains it.

    Runs of different days differ by more than windows of one run do, so a change counts only when the 95% intervals of
    the medians are apart and the medians are further apart than `tolerance`.
    """
    new, old = summarise(newest), summarise(previous)
    change = new.median / old.median - 1 if old.median else math.inf
    apart = new.low > old.high or new.high < old.low
    return change if apart and abs(change) > tolerance else None


def _checked(values: Values) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if not array.size or not np.isfinite(array).all():
        raise ValueError(f"measurements must be finite numbers, at least one, not {values!r}")
    return array
