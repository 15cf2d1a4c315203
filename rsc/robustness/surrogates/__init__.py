"""Gradients of the attacker's choice, switched on a loaded network without touching its forward pass.

Adding a rule: a file in this folder and a line in `RULES`. Plain surrogate derivatives of
`rsc.neurons.SURROGATES` need no rule; `surrogate_named` finds either.
"""

from __future__ import annotations

from rsc.errors import UsageError
from rsc.neurons.surrogates import SURROGATES, Surrogate, surrogate_of
from rsc.robustness.surrogates.assg import Assg
from rsc.robustness.surrogates.bptr import Bptr
from rsc.robustness.surrogates.hart import Hart
from rsc.robustness.surrogates.pdsg import Pdsg
from rsc.robustness.surrogates.rga import Rga
from rsc.robustness.surrogates.rule import GradientRule, Memory, SpikeLayer
from rsc.robustness.surrogates.stbp import Stbp, surrogate_text
from rsc.robustness.surrogates.switch import attack_through, shared_copy

RULES: dict[str, type[GradientRule]] = {
    "stbp": Stbp,
    "bptr": Bptr,
    "rga": Rga,
    "hart": Hart,
    "pdsg": Pdsg,
    "assg": Assg,
}

__all__ = [
    "RULES",
    "Assg",
    "Bptr",
    "GradientRule",
    "Hart",
    "Memory",
    "Pdsg",
    "Rga",
    "SpikeLayer",
    "Stbp",
    "attack_through",
    "shared_copy",
    "surrogate_named",
    "surrogate_text",
]


def surrogate_named(text: str) -> Surrogate | GradientRule:
    """ "atan", "atan:10" (its first parameter), "rga", "assg:0.8": a surrogate or rule as users write it.

    Raises:
        UsageError: not known, or the number is none.
    """
    name, _, number = text.partition(":")
    try:
        value = float(number) if number else None
    except ValueError as error:
        raise UsageError(
            f"Surrogate '{text}' is not known.", str(error), "Write NAME or NAME:3.5."
        ) from error
    if name in SURROGATES:
        parameter = {"atan": "alpha", "rectangle": "width", "triangle": "gamma"}.get(name)
        if value is None:
            return SURROGATES[name]
        if parameter is not None:
            return surrogate_of(name, **{parameter: value})
    elif name in RULES:
        numbered = {"rga": "gamma", "hart": "gamma", "assg": "vanishing"}
        if value is None:
            return RULES[name]()
        if name in numbered:
            return RULES[name](**{numbered[name]: value})
    else:
        raise UsageError(
            f"Surrogate '{text}' is not known.",
            f"Surrogates: {', '.join(SURROGATES)}. Rules: {', '.join(RULES)}.",
            "Choose among them.",
        )
    raise UsageError(f"Surrogate '{name}' takes no number here.", f"'{text}' gives one.", f"Write {name}.")
