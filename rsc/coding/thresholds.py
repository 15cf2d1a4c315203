"""The discretised Gaussian as a table: P[n <= k] = Phi((k + 1/2) / s), in units of 2^-60.

Rounding a Gaussian e of standard deviation s to whole numbers gives just this law, and round(x + e) =
x + round(e) for whole x: on a grid, smoothing with this noise *is* smoothing with the rounded Gaussian, and
its certificates hold without any floating point (the gap is Voracek and Hein's, arXiv 2207.07209). The table
differs from the law by less than 2^-60 at each entry.
"""

from __future__ import annotations

import decimal
import functools
import math

import numpy as np

from rsc.coding.words import UNIFORM_BITS
from rsc.errors import UsageError

LARGEST_SIGMA = 1 << 13  # levels; the table has 18 entries for each
_DIGITS = 45
_SQRT_TAU = decimal.Decimal("2.50662827463100050241576528481104525300698674060994")


@functools.lru_cache(maxsize=64)
def thresholds(sigma: float) -> np.ndarray:
    """round(2^60 Phi((k + 1/2) / sigma)) for k = -R .. R - 1, uint64 [2 R]; all others are 0 or 2^60.

    Args:
        sigma: standard deviation in levels, at least 0.

    Raises:
        UsageError: sigma beyond 8192 levels.
    """
    if sigma > LARGEST_SIGMA:
        raise UsageError(
            f"The noise has a standard deviation of {sigma:g} levels.",
            f"Up to {LARGEST_SIGMA} are tabulated.",
            "Use a coarser grid.",
        )
    whole, upper = 1 << UNIFORM_BITS, []
    for k in range(math.ceil(10 * sigma) + 1 if sigma else 0):
        value = _scaled_phi(k, sigma)
        if value >= whole:
            break
        upper.append(value)
    table = [whole - value for value in reversed(upper)] + upper
    made = np.array(table, np.uint64)
    made.flags.writeable = False
    return made


def _scaled_phi(k: int, sigma: float) -> int:
    """round(2^60 Phi((k + 1/2) / sigma)); Phi(z) = 1/2 + phi(z) (z + z^3/3 + z^5/(3 5) + ...)."""
    with decimal.localcontext(decimal.Context(prec=_DIGITS)):
        z = (decimal.Decimal(k) + decimal.Decimal("0.5")) / decimal.Decimal(sigma)
        square, term, total, n = z * z, z, z, 1
        while term > total * decimal.Decimal(10) ** -30:
            n += 2
            term = term * square / n
            total += term
        phi = (-square / 2).exp() / _SQRT_TAU
        scaled = (decimal.Decimal("0.5") + phi * total) * (1 << UNIFORM_BITS)
        return int(scaled.to_integral_value(decimal.ROUND_HALF_EVEN))
