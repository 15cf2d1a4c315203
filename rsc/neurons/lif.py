"""Leaky integrate-and-fire neurons over [T, B, ...]: state in, state out, surrogate gradient.

    h_t = decay v_{t-1} + x_t,   s_t = [h_t > v_threshold],   v_t = 0 (hard) or h_t - v_threshold s_t (soft)

Only h is kept for the backward pass (`rsc.neurons.kernels`).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rsc.errors import UsageError
from rsc.neurons import kernels
from rsc.neurons.base import Neurons, check_currents
from rsc.neurons.constants import Constant
from rsc.neurons.rule import Coefficient, Fire, Leak
from rsc.neurons.surrogates import SURROGATES, Surrogate, surrogate_of


def lif_scan(
    x: Tensor,
    v0: Tensor | None = None,
    *,
    decay: Coefficient = 0.5,
    v_threshold: Coefficient = 1.0,
    reset: str = "value",
    surrogate: Surrogate = SURROGATES["atan"],
    detach_reset: bool = True,
    comparison: str = ">",
    inplace: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run LIF neurons over time.

    Args:
        x: input currents [T, B, ...].
        v0: membrane potential before the first step [B, ...]; zeros if None.
        decay: share of v kept per step, in [0, 1]; 1 is an IF neuron. A number, or a tensor that broadcasts
            to one step; it gets a gradient if it asks for one, and so does the threshold.
        v_threshold: the neuron fires above.
        reset: "value" (to 0) or "subtract".
        surrogate: derivative used backwards.
        detach_reset: whether the gradient through the reset is dropped.
        comparison: ">" as in NIR, or ">=".
        inplace: see `rsc.neurons.kernels.scan`.

    Returns:
        spikes [T, B, ...] of 0 and 1, and the membrane potential after the last step [B, ...].
    """
    rule: Any = (reset, comparison)
    fire = Fire(_float(v_threshold), 0.0, *rule, surrogate=surrogate, detach_reset=detach_reset)
    return kernels.scan(x, v0, Leak(_float(decay), 1.0, 0.0), fire, inplace=inplace)


def _float(value: Coefficient) -> Coefficient:
    return value if isinstance(value, Tensor) else float(value)


class LIF(Neurons):
    """A layer of LIF neurons; maps currents [T, B, ...] to spikes.

    Args:
        decay: share of the membrane kept per step, in [0, 1]; a number or one per channel [C].
        v_threshold: positive; a number or one per channel [C].
        reset: "value" (to 0) or "subtract".
        surrogate: a name in `SURROGATES`, or a function such as `surrogate_of("atan", alpha=4.0)`.
        detach_reset: whether the gradient through the reset is dropped.
        comparison: fires at ">" as in NIR, or at ">=".
        learn_decay: the decay is trained; it stays in (0, 1).
        learn_threshold: the threshold is trained; it stays positive.
        inplace: the currents are overwritten, which saves their memory: for a layer whose input is read by
            nothing else, such as that of a convolution, a linear layer or a batch norm.

    Attributes `decay` and `v_threshold` are their present values, floats or tensors [C] without gradient;
    `surrogate` may be set at any time.

    Raises:
        UsageError: decay or threshold out of bounds, unknown reset, comparison or surrogate.
    """

    def __init__(
        self,
        decay: float | Tensor = 0.5,
        v_threshold: float | Tensor = 1.0,
        reset: str = "value",
        surrogate: str | Surrogate = "atan",
        *,
        detach_reset: bool = True,
        comparison: str = ">",
        learn_decay: bool = False,
        learn_threshold: bool = False,
        inplace: bool = False,
    ) -> None:
        super().__init__()
        if reset not in ("value", "subtract") or comparison not in (">", ">="):
            raise UsageError(
                f"LIF with reset '{reset}' and comparison '{comparison}'.",
                "Resets: value, subtract. Comparisons: >, >=.",
                "Choose among them.",
            )
        surrogate_of(surrogate)
        self.leak = Constant("decay", decay, learn_decay)
        self.level = Constant("v_threshold", v_threshold, learn_threshold)
        self.reset, self.surrogate = reset, surrogate
        self.detach_reset, self.comparison, self.inplace = detach_reset, comparison, inplace

    @property
    def decay(self) -> Any:
        """Share of the membrane kept per step: a float or a tensor [C]."""
        return self.leak.read()

    @property
    def v_threshold(self) -> Any:
        """Where the neurons fire: a float or a tensor [C]."""
        return self.level.read()

    def run(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Spikes [T, B, ...] of currents [T, B, ...], and the membrane [B, ...] after the last step.

        Args:
            state: the membrane before the first step [B, ...]; None is zero.

        Raises:
            UsageError: shapes that do not fit; `inplace` on a leaf that requires a gradient.
        """
        check_currents(x, state)
        return lif_scan(
            x,
            state,
            decay=self.leak.over(x),
            v_threshold=self.level.over(x),
            reset=self.reset,
            surrogate=surrogate_of(self.surrogate),
            detach_reset=self.detach_reset,
            comparison=self.comparison,
            inplace=self.inplace,
        )

    def extra_repr(self) -> str:
        return f"reset={self.reset}, surrogate={self.surrogate}, comparison={self.comparison}"


class IF(LIF):
    """A layer of integrate-and-fire neurons: LIF with decay 1; arguments as there."""

    def __init__(
        self,
        v_threshold: float | Tensor = 1.0,
        reset: str = "value",
        surrogate: str | Surrogate = "atan",
        *,
        detach_reset: bool = True,
        comparison: str = ">",
        learn_threshold: bool = False,
        inplace: bool = False,
    ) -> None:
        super().__init__(
            1.0,
            v_threshold,
            reset,
            surrogate,
            detach_reset=detach_reset,
            comparison=comparison,
            learn_threshold=learn_threshold,
            inplace=inplace,
        )
