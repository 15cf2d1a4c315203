"""Other simulators reading NIR files, each behind the interface of our targets.

They are held against the conformance suite (`tests/conformance/matrix.py`), against our presets
(`test_peers.py`) and against the clock (`benchmarks/nir_runtime.py`). Each tool gets the graph as its own
users would hand it over, with the time constants in its unit; nothing else is repaired. Installed by the
`peers` extra.
"""

from __future__ import annotations

import importlib

from peers.target import PeerTarget

# name -> module; a module holds TITLE, PACKAGE and load(graph, dt) -> network.
PEERS = {
    "norse-file": "peers.norse_file",
    "snntorch": "peers.snntorch_file",
    "sinabs": "peers.sinabs_file",
    "spikingjelly": "peers.spikingjelly_file",
    "nirtorch": "peers.nirtorch_file",
}


def peer(name: str) -> PeerTarget:
    """The target of a peer."""
    return PeerTarget(name, importlib.import_module(PEERS[name]))
