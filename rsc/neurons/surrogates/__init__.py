"""Surrogate derivatives: what the backward pass uses in place of the derivative of the step.

Each maps x = v - v_threshold to ds/dx, a new tensor; the forward pass stays the exact step function. Adding
one: a file and a line in `SURROGATES`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

from torch import Tensor

from rsc.errors import UsageError, unknown_name
from rsc.neurons.surrogates.atan import atan
from rsc.neurons.surrogates.fast_sigmoid import fast_sigmoid
from rsc.neurons.surrogates.gaussian import gaussian
from rsc.neurons.surrogates.rectangle import rectangle
from rsc.neurons.surrogates.sigmoid import sigmoid
from rsc.neurons.surrogates.triangle import triangle

Surrogate = Callable[[Tensor], Tensor]

SURROGATES: dict[str, Surrogate] = {
    "atan": atan,
    "triangle": triangle,
    "rectangle": rectangle,
    "sigmoid": sigmoid,
    "fast_sigmoid": fast_sigmoid,
    "gaussian": gaussian,
}

__all__ = [
    "SURROGATES",
    "Surrogate",
    "atan",
    "fast_sigmoid",
    "gaussian",
    "rectangle",
    "sigmoid",
    "surrogate_of",
    "triangle",
]


def surrogate_of(surrogate: str | Surrogate, **parameters: float) -> Surrogate:
    """A surrogate by name, with parameters other than its defaults: `surrogate_of("atan", alpha=4.0)`.

    Args:
        surrogate: a name in `SURROGATES`, or a function of your own.
        parameters: by the names in its signature; all are positive widths or slopes.

    Raises:
        UsageError: unknown name, unknown parameter, or a parameter that is not positive.
    """
    if isinstance(surrogate, str):
        if surrogate not in SURROGATES:
            raise unknown_name("surrogate", surrogate, SURROGATES)
        surrogate = SURROGATES[surrogate]
    if not parameters:
        return surrogate
    known = list(inspect.signature(surrogate).parameters)[1:]
    for name, value in parameters.items():
        if name not in known or not value > 0:
            raise UsageError(
                f"A surrogate with {name} = {value}.",
                f"Its parameters are {', '.join(known)}, all positive.",
                "Correct it.",
            )
    return functools.partial(surrogate, **parameters)
