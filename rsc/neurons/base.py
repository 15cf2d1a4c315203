"""What all neuron layers share: currents [T, B, ...] in, and a state that goes in and comes out."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from rsc.errors import UsageError


class Neurons(nn.Module, ABC):
    """A layer of neurons without connections among them. It keeps no state between calls."""

    @abstractmethod
    def run(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Outputs [T, B, ...] of currents [T, B, ...] and the state [B, ...] after the last step.

        Args:
            state: what `run` returned for the steps before; None is the zero state.
        """

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of currents [T, B, ...], from the zero state."""
        return self.run(x)[0]


def check_currents(x: Tensor, state: Tensor | None) -> None:
    """Refuse what is no current.

    Raises:
        UsageError: no time and batch axis, an integer type, or a state of another shape.
    """
    if x.ndim < 2 or not x.is_floating_point():
        raise UsageError(
            f"Neurons got an input of shape {tuple(x.shape)} and type {x.dtype}.",
            "They take real currents [T, B, ...].",
            "Add the missing axes, or convert it.",
        )
    if state is not None and state.shape != x.shape[1:]:
        raise UsageError(
            f"Neurons got a state of shape {tuple(state.shape)} for an input of shape {tuple(x.shape)}.",
            "The state is that of one step, [B, ...].",
            "Pass what run() returned for the same batch.",
        )
