"""Random streams addressed by what they are for, never by who draws or in which order.

A *unit* is a named range of toys; its toys come in *micro-batches* of fixed size, and each
micro-batch has a stream of its own.  So toy 70,000 of a unit is the same whether one thread draws
it or eight, in one piece or after a restart.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

MICRO_BATCH = 512
"""Toys of one stream; changing it changes every toy."""


def stream(seed: int, unit: str, micro_batch: int) -> np.random.Generator:
    """Open the random stream of one micro-batch.

    Parameters
    ----------
    seed : int
        The user's seed.
    unit : str
        Name of the unit.
    micro_batch : int
        Which of its micro-batches, from 0.

    Returns
    -------
    numpy.random.Generator
        A Philox generator: seed and unit make the key, the micro-batch its counter's upper half,
        so that streams never overlap.

    References
    ----------
    J. K. Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC11 (2011).

    Examples
    --------
    >>> a, b = stream(1, "mu=1.0/b", 0), stream(1, "mu=1.0/b", 0)
    >>> bool(a.normal() == b.normal())
    True
    """
    name = f"{seed}\n{unit}".encode()
    key = np.frombuffer(blake2b(name, digest_size=16).digest(), "<u8")
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, micro_batch, 0]))
