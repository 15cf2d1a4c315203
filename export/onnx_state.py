"""Where the states of an ONNX graph begin and end: inside it, or as inputs and outputs of the model."""

from __future__ import annotations

import numpy as np

from rsc.discretise import Coefficients
from rsc.export.onnx_scope import Scope
from rsc.export.onnx_series import Extent
from rsc.shapes import Shape


class Memory:
    """States by (kind, node): "v" and "i" of neurons, "held" outputs of a step before, "line" of a Delay.

    Args:
        open_ended: whether a model begins with states that may be fed (`state.KIND.NODE`, by default the
            initial ones) and gives those after the last step (`next.KIND.NODE`).

    Fields:
        begin: [B, ...] before the first step ([delay, B, ...] of a line).
        names: of the model's inputs and outputs, without "state." and "next.".
    """

    def __init__(self, open_ended: bool) -> None:
        self.open_ended = open_ended
        self.begin: dict[tuple[str, str], str] = {}
        self.names: list[str] = []
        self._shapes: dict[tuple[str, str], tuple[int | str, ...]] = {}

    def start(
        self,
        s: Scope,
        kind: str,
        name: str,
        shape: Shape,
        extent: Extent,
        longest: int | None = None,
        value: np.ndarray | None = None,
        dtype: str = "",
        like: str = "",
    ) -> str:
        """The state before the first step; zeros but for a given `value`.

        Args:
            like: values [T or 1, B, *shape], if there are any: their shape need not be put together again.
        """
        lead = () if longest is None else (longest,)
        self._shapes[kind, name] = (*lead, "B", *shape)
        if like:
            size = s.op("Shape", like, start=1)
        else:
            parts = *(s.ints(n) for n in lead), extent.batch, *([s.ints(*shape)] if shape else [])
            size = s.op("Concat", *parts, axis=0)
        dtype = dtype or s.real
        if not self.open_ended:
            start = s.number(0.0 if value is None else value, dtype)
        else:
            initial = np.broadcast_to(np.asarray(0.0 if value is None else value), (*lead, 1, *shape))
            declared = (*lead, f"batch of {kind}.{name}", *shape)
            start = s.optional(f"state.{kind}.{name}", dtype, initial, declared)
        self.begin[kind, name] = s.op("Expand", start, size)
        return self.begin[kind, name]

    def start_neuron(
        self, s: Scope, name: str, k: Coefficients, shape: Shape, extent: Extent, like: str = ""
    ) -> tuple[str, ...]:
        """The states of a neuron node before the first step; their kinds."""
        kinds = ("v",) if k.alpha_syn is None else ("v", "i")
        for kind in kinds:
            self.start(s, kind, name, shape, extent, value=k.v0 if kind == "v" else None, like=like)
        return kinds

    def is_open(self, kind: str, name: str) -> bool:
        """Whether the model is to give this state and does not yet."""
        return self.open_ended and f"{kind}.{name}" not in self.names

    def finish(self, s: Scope, kind: str, name: str, value: str, dtype: str = "") -> None:
        """Note the state after the last step."""
        if self.open_ended:
            s.op("Identity", value, name=f"next.{kind}.{name}")
            self.names.append(f"{kind}.{name}")
            s.declare(f"next.{kind}.{name}", dtype or s.real, self._shapes[kind, name], "output")
