"""Keys of random numbers: what they are for, never who draws them or in which order.

A *unit* is a named range of toys.  Seed and unit make the *key* of a counter-based generator, and
each datum of each toy is drawn at a counter of its own.  So toy 70,000 of a unit is the same
whether one thread throws it or eight, in one piece or after a restart, on a CPU or on a GPU.
"""

from __future__ import annotations

from hashlib import blake2b


def key(seed: int, unit: str) -> int:
    """Give the key of a unit's random numbers.

    Parameters
    ----------
    seed : int
        The user's seed.
    unit : str
        Name of the unit.

    Returns
    -------
    int
        64 bits; other seeds and units have other keys, but once in 2^64 pairs.

    Examples
    --------
    >>> key(1, "mu=1.0/b") == key(1, "mu=1.0/b")
    True
    >>> key(1, "mu=1.0/b") == key(2, "mu=1.0/b")
    False
    """
    name = f"{seed}\n{unit}".encode()
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "little")
