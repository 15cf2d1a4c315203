"""rsc-snn: train robust spiking networks, deploy the same program everywhere, measure what is left.

Public names are loaded on first use, so that `import rsc` stays light and never imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Bundle": "rsc.bundle",
    "EncoderSpec": "rsc.program",
    "Issue": "rsc.results",
    "Keys": "rsc.results",
    "Probe": "rsc.results",
    "Program": "rsc.program",
    "RscError": "rsc.errors",
    "RunResult": "rsc.results",
    "Semantics": "rsc.program",
    "SpikeRecord": "rsc.results",
    "Unavailable": "rsc.results",
    "deploy": "rsc.hw_targets",
    "encode": "rsc.coding",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'rsc' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from rsc.bundle import Bundle as Bundle
    from rsc.coding import encode as encode
    from rsc.errors import RscError as RscError
    from rsc.hw_targets import deploy as deploy
    from rsc.program import EncoderSpec as EncoderSpec
    from rsc.program import Program as Program
    from rsc.program import Semantics as Semantics
    from rsc.results import Issue as Issue
    from rsc.results import Keys as Keys
    from rsc.results import Probe as Probe
    from rsc.results import RunResult as RunResult
    from rsc.results import SpikeRecord as SpikeRecord
    from rsc.results import Unavailable as Unavailable
