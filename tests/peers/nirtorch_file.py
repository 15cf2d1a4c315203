"""nirtorch's own interpreter, `nir_to_torch`, with plain Euler neurons: it brings none of its own."""

from __future__ import annotations

from typing import Any

import nir
import torch
from torch import Tensor, nn

from peers.target import Network, steps

TITLE, PACKAGE = "nirtorch", "nirtorch"


class Leaky(nn.Module):
    """v + dt/tau (v_leak - v + r x), fires above v_threshold, back to v_reset."""

    def __init__(self, node: nir.LIF, dt: float) -> None:
        super().__init__()
        self.keep, self.gain = _tensor(1 - dt / node.tau), _tensor(node.r * dt / node.tau)
        self.rest = _tensor(node.v_leak * dt / node.tau)
        self.limit, self.reset = _tensor(node.v_threshold), _tensor(node.v_reset)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One step."""
        v = self.gain * x + self.rest if state is None else self.keep * state + self.gain * x + self.rest
        z = (v > self.limit).to(v.dtype)
        return z, torch.where(z > 0, self.reset, v)


class Integrator(nn.Module):
    """v + dt r x, fires above v_threshold, back to v_reset."""

    def __init__(self, node: nir.IF, dt: float) -> None:
        super().__init__()
        self.gain = _tensor(node.r * dt)
        self.limit, self.reset = _tensor(node.v_threshold), _tensor(node.v_reset)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One step."""
        v = self.gain * x if state is None else state + self.gain * x
        z = (v > self.limit).to(v.dtype)
        return z, torch.where(z > 0, self.reset, v)


def _tensor(value: Any) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float32)


def _affine(node: nir.Affine) -> nn.Linear:
    """nirtorch's own leaves the bias at random."""
    module = nn.Linear(node.weight.shape[-1], node.weight.shape[-2])
    module.weight.data, module.bias.data = _tensor(node.weight), _tensor(node.bias)
    return module


def load(graph: nir.NIRGraph, dt: float) -> Network:
    """See `PeerTarget.load`."""
    import nirtorch

    nodes: dict[Any, Any] = {
        nir.LIF: lambda node: Leaky(node, dt),
        nir.IF: lambda node: Integrator(node, dt),
        nir.Affine: _affine,
    }
    return steps(nirtorch.nir_to_torch(graph, nodes))
