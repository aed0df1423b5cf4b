"""Epochs in which every class comes equally often, however many images it has."""

import numpy as np
from numpy.typing import NDArray

from pipelines.plan.random_numbers import key, permute

Array = NDArray[np.int64]


class Balance:
    """Draws samples class by class. A class goes through all of its samples, in a new order each time, before any comes again,
    over the ends of epochs too: of a large class an epoch holds a part, of a small one each sample several times."""

    def __init__(self, labels: NDArray[np.integer]) -> None:
        """labels: (samples,), the class of each; classes without samples are left out."""
        self._members = np.argsort(labels, kind="stable")
        _, self._starts, self._counts = np.unique(labels[self._members], return_index=True, return_counts=True)
        self._an_epoch = -(-len(self._members) // len(self._counts))  # draws of a class

    def samples(self, seed: int, epoch: int, places: Array) -> Array:
        """int64 (n,): the sample at each of the shuffled `places` of an epoch."""
        class_, rounds, within = self._turns(epoch, places)
        samples = np.empty_like(places)
        for one, time in np.unique(np.stack([class_, rounds], axis=1), axis=0).tolist():
            here = (class_ == one) & (rounds == time)
            size = int(self._counts[one])
            samples[here] = self._starts[one] + permute(within[here], size, key(seed, one, time))
        return self._members[samples]

    def begun_anew(self, epoch: int, places: Array) -> Array:
        """int64 (n,): how often the class at each place had begun anew since the epoch began."""
        class_, rounds, _ = self._turns(epoch, places)
        return rounds - epoch * self._an_epoch // self._counts[class_]

    def _turns(self, epoch: int, places: Array) -> tuple[Array, Array, Array]:
        """Of each place its class, how often that has begun anew, and which of its samples since is meant."""
        class_, draw = places % len(self._counts), places // len(self._counts)
        rounds, within = np.divmod(epoch * self._an_epoch + draw, self._counts[class_])
        return class_, rounds, within
