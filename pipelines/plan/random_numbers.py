"""Counter-based randomness: hashes in place of a random generator, and a permutation that needs no table.

Everything is a pure function of integers, vectorised over NumPy arrays, and the same on every machine.
"""

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_ROUNDS = 8  # four on each half: statistically far beyond what a shuffle needs, also for a handful of samples


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output function (Steele, Lea and Flood, OOPSLA 2014): a bijection of 64-bit integers whose outputs
    on consecutive inputs pass as random."""
    z = values + np.uint64(_GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def key(*words: int) -> int:
    """One 64-bit key from any number of integers, each of which changes it wholly."""
    state = 0
    for word in words:
        state = (state ^ word) + _GOLDEN & _MASK  # SplitMix64 again, on Python's integers
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


def uniform(key_: int, counters: NDArray[np.integer], draw: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) with 53 random bits, one a counter; `draw` numbers the independent draws of one key."""
    stream = np.uint64(key(key_, draw))
    bits = mix(mix(counters.astype(np.uint64)) ^ stream)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(positions: NDArray[np.integer], length: int, key_: int) -> NDArray[np.int64]:
    """Where the key's permutation of 0..length-1 sends each position; O(1) memory and time a position.

    A generalised Feistel network on pairs (i mod a, i div a) with a * b just above `length`, walked until the result is
    below `length` (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). Fewer than one position in
    sqrt(length) needs a second walk.
    """
    return _walk(positions, length, key_, _encrypt)


def unpermute(positions: NDArray[np.integer], length: int, key_: int) -> NDArray[np.int64]:
    """The inverse of `permute`."""
    return _walk(positions, length, key_, _decrypt)


def _walk(positions, length, key_, step) -> NDArray[np.int64]:
    values = np.array(positions, dtype=np.uint64)  # a copy: walked in place
    if values.size == 0:
        return values.astype(np.int64)
    if int(values.max()) >= length:
        raise IndexError(f"position {int(values.max())} is outside a permutation of {length}")
    halves = _halves(length)
    keys = mix(np.uint64(key_) + np.arange(_ROUNDS, dtype=np.uint64))
    outside = np.arange(values.size)
    while outside.size:
        moved = step(values[outside], halves, keys)
        values[outside] = moved
        outside = outside[moved >= length]
    return values.astype(np.int64)


def _halves(length: int) -> tuple[np.uint64, np.uint64]:
    a = max(int(np.ceil(np.sqrt(length))), 1)
    return np.uint64(a), np.uint64(-(-length // a))


def _encrypt(values, halves, keys):
    a, b = halves
    left, right = values % a, values // a
    for number in range(_ROUNDS):
        if number % 2:
            right = (right + mix(left ^ keys[number]) % b) % b
        else:
            left = (left + mix(right ^ keys[number]) % a) % a
    return right * a + left


def _decrypt(values, halves, keys):
    a, b = halves
    left, right = values % a, values // a
    for number in reversed(range(_ROUNDS)):
        if number % 2:
            right = (right + b - mix(left ^ keys[number]) % b) % b
        else:
            left = (left + a - mix(right ^ keys[number]) % a) % a
    return right * a + left
