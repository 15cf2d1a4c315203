"""What the synaptic sums of a connection reach at least, whichever way its weights are rounded.

Scales are searched from large to small, and most of them fail by far. Sums over the weights, taken once, say
so without rounding a single one.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from rsc.layered import Connection

_SLACK = 1 - 1e-9  # for sums that floating point takes in another order


@dataclasses.dataclass(frozen=True, eq=False)
class Sums:
    """Sums over the weights of every row (output, or kernel), and how many they are.

    Fields:
        up, down: of the weights above 0, and of minus those below; n_up, n_down: how many.
        norm: root of the sum of squares.
        largest: max |w| of all.
        pooled: sites that are summed before a weight.
    """

    up: np.ndarray
    down: np.ndarray
    n_up: np.ndarray
    n_down: np.ndarray
    norm: np.ndarray
    largest: float
    pooled: int

    @classmethod
    def of(cls, connection: Connection) -> Sums:
        """The sums of a float connection."""
        rows = connection.weight.reshape(len(connection.weight), -1)
        high, low = rows.clip(min=0), -rows.clip(max=0)
        return cls(
            high.sum(1),
            low.sum(1),
            np.count_nonzero(high, 1),
            np.count_nonzero(low, 1),
            np.sqrt(np.square(rows).sum(1)),
            float(np.abs(rows).max(initial=0.0)),
            math.prod(connection.pool[0]) if connection.pool else 1,
        )

    def spikes(self, unit: float, off: float) -> float:
        """Least bound of |sum| for spikes, weights being unit * w to within `off` each, and 0 where w is."""
        ends = (self.up * unit - self.n_up * off, self.down * unit - self.n_down * off)
        return self.pooled * _SLACK * max(float(end.max(initial=0)) for end in ends)

    def payloads(self, unit: float, off: float, mean: float, spread: float) -> float:
        """Likewise of sum |w| mean + |w|_2 spread, for payloads."""
        n = self.n_up + self.n_down
        absolute = ((self.up + self.down) * unit - n * off).clip(min=0)
        norm = (self.norm * unit - np.sqrt(n) * off).clip(min=0)
        return _SLACK * float((absolute * mean + norm * spread).max(initial=0))
