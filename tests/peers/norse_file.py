"""Norse: `norse.torch.from_nir`, told the time step."""

from __future__ import annotations

from typing import Any

from peers.target import Network, steps

TITLE, PACKAGE = "Norse", "norse"


def load(graph: Any, dt: float) -> Network:
    """See `PeerTarget.load`."""
    import norse.torch

    network = norse.torch.from_nir(graph, ignore_warnings=True, dt=dt)  # type: ignore[attr-defined]
    return steps(network)
