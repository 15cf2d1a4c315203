"""Leaky integrate-and-fire neurons over [T, B, ...]: state in, state out, surrogate gradient.

    h_t = decay v_{t-1} + x_t,   s_t = [h_t > v_threshold],   v_t = 0 (hard) or h_t - v_threshold s_t (soft)

The gradient through the reset is detached. Only h is kept for the backward pass (`rsc.neurons.scan`).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from rsc.errors import UsageError
from rsc.neurons.scan import Fire, Leak, spike_scan
from rsc.neurons.surrogate import SURROGATES, Surrogate


def lif_scan(
    x: Tensor,
    v0: Tensor | None = None,
    *,
    decay: float = 0.5,
    v_threshold: float = 1.0,
    reset: str = "value",
    surrogate: Surrogate = SURROGATES["atan"],
) -> tuple[Tensor, Tensor]:
    """Run LIF neurons over time.

    Args:
        x: input currents [T, B, ...].
        v0: membrane potential before the first step [B, ...]; zeros if None.
        decay: share of v kept per step, in [0, 1]; 1 is an IF neuron.
        v_threshold: the neuron fires at strictly above.
        reset: "value" (to 0) or "subtract".
        surrogate: derivative used backwards.

    Returns:
        spikes [T, B, ...] of 0 and 1, and the membrane potential after the last step [B, ...].
    """
    if v0 is None:
        v0 = torch.zeros_like(x[0])
    how: Literal["value", "subtract"] = "subtract" if reset == "subtract" else "value"
    fire = Fire(float(v_threshold), 0.0, how, surrogate=surrogate)
    return spike_scan(x, v0, Leak(float(decay), 1.0, 0.0), fire)


class LIF(nn.Module):
    """A layer of LIF neurons with one decay and threshold; maps currents [T, B, ...] to spikes.

    Raises:
        UsageError: decay outside [0, 1], threshold not positive, unknown reset or surrogate.
    """

    def __init__(
        self, decay: float = 0.5, v_threshold: float = 1.0, reset: str = "value", surrogate: str = "atan"
    ) -> None:
        super().__init__()
        if not 0 <= decay <= 1 or not v_threshold > 0:
            raise UsageError(
                f"LIF with decay {decay} and threshold {v_threshold}.",
                "Decay lies in [0, 1] and the threshold is positive.",
                "Correct them.",
            )
        if reset not in ("value", "subtract") or surrogate not in SURROGATES:
            raise UsageError(
                f"LIF with reset '{reset}' and surrogate '{surrogate}'.",
                f"Resets: value, subtract. Surrogates: {', '.join(SURROGATES)}.",
                "Choose among them.",
            )
        self.decay, self.v_threshold, self.reset, self.surrogate = decay, v_threshold, reset, surrogate

    def forward(self, x: Tensor) -> Tensor:
        """Spikes of currents, from the zero state."""
        spikes, _ = lif_scan(
            x,
            decay=self.decay,
            v_threshold=self.v_threshold,
            reset=self.reset,
            surrogate=SURROGATES[self.surrogate],
        )
        return spikes

    def extra_repr(self) -> str:
        return f"decay={self.decay}, v_threshold={self.v_threshold}, reset={self.reset}"
