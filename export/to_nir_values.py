"""Which value of the graph flows in which tensor of a network that is followed."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rsc.errors import UnsupportedNode
from rsc.export.to_nir_graph import GraphBuilder, Value
from rsc.export.to_nir_layers import CARRIED

BATCH = 3  # samples; with T steps, T and T * B are told apart


class Values:
    """The values behind tensors, and where in the network the walk is.

    Attributes:
        originals: id of a tensor without data -> the parameter or buffer that it stands for.
        modules: paths of the modules being called, outermost first.
        failed: path of the module in which an error occurred first.
    """

    def __init__(self, graph: GraphBuilder, steps: int) -> None:
        self.graph, self.steps = graph, steps
        self.originals: dict[int, Tensor] = {}
        self.modules: list[str] = []
        self.failed = ""
        self._values: dict[int, tuple[Tensor, Value]] = {}  # with the tensor, so that its id stays its own

    @property
    def place(self) -> str:
        """Where the walk is, or where it failed, in words."""
        path = self.modules[-1] if self.modules else self.failed
        return f" in '{path}'" if path else ""

    def within(self, what: str) -> str:
        """A path for a node that is not a module of its own."""
        return f"{self.modules[-1]}.{what}" if self.modules and self.modules[-1] else what

    @property
    def leadings(self) -> tuple[tuple[int, ...], ...]:
        """What the leading axes of a tensor may be: (T, B), or (T * B,) where they are folded."""
        return (self.steps, BATCH), (self.steps * BATCH,)

    def of(self, tensor: Any) -> Value | None:
        """What flows in a tensor; None if it does not come from the input by ways that were followed."""
        found = self._values.get(id(tensor))
        return None if found is None else found[1]

    def note(self, tensor: Tensor, value: Value) -> Tensor:
        """Remember what flows in a tensor."""
        self._values[id(tensor)] = (tensor, value)
        return tensor

    def usable(self, tensor: Any, what: str) -> Value:
        """What flows in a tensor that something is to be done with.

        Raises:
            UnsupportedNode: nothing known, or it is reduced over time already.
        """
        value = self.of(tensor)
        if value is None:
            raise UnsupportedNode(
                f"{what} does not come from the network's input by layers that can be followed{self.place}.",
                "It is a constant, or made by code that hides what it does (autograd.Function, TorchScript).",
                f"Use {CARRIED}.",
            )
        if value.reduced:
            raise UnsupportedNode(
                f"{what} is reduced over time{self.place}.",
                f"A program takes the {value.reduced} over time of its outputs, and of nothing else.",
                "Reduce at the very end.",
            )
        return value

    def layout(self, tensor: Tensor) -> tuple[int, ...]:
        """The leading axes of a tensor, one of `leadings`."""
        value, shape = self.of(tensor), tuple(tensor.shape)
        for leading in self.leadings:
            if value is not None and shape == (*leading, *value.shape):
                return leading
        raise UnsupportedNode(
            f"Values of shape {shape} cannot be told apart into time, batch and sample{self.place}.",
            f"They are [T, B, ...] or [T * B, ...], here with T = {self.steps} and B = {BATCH}.",
            "Keep time and batch in front.",
        )
