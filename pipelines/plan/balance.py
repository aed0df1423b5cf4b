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

    def draw(self, seed: int, epoch: int, places: Array) -> tuple[Array, Array]:
        """The sample at each of the shuffled `places` of an epoch, and how often its class had begun anew since the epoch
        began: int64 (n,) each."""
        classes = len(self._counts)
        an_epoch = -(-len(self._members) // classes)  # draws of a class
        class_, draw = places % classes, places // classes
        count = self._counts[class_]
        rounds, within = np.divmod(epoch * an_epoch + draw, count)
        samples = np.empty_like(places)
        for one, time in np.unique(np.stack([class_, rounds], axis=1), axis=0).tolist():
            here = (class_ == one) & (rounds == time)
            size = int(self._counts[one])
            samples[here] = self._starts[one] + permute(within[here], size, key(seed, one, time))
        return self._members[samples], rounds - epoch * an_epoch // count
