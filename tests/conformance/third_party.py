"""Which targets the suite runs: our own, or those named on the command line."""

from __future__ import annotations

import importlib
from typing import Any

from rsc.errors import TargetUnavailable, UnsupportedNode, UsageError
from rsc.hw_targets import TARGETS, Target, get_target
from rsc.hw_targets.base import DeployedModel
from rsc.program import Program

GIVEN: tuple[str, ...] = ()  # set by conftest


def under_test(*ours: str) -> tuple[str, ...]:
    """The targets given on the command line, or `ours`."""
    return GIVEN or ours


def target_of(spec: str) -> Target:
    """A target of ours, a peer, or `module:Class[:option...]`.

    Raises:
        UsageError: no such target, or it does not follow the protocol.
    """
    from peers import PEERS, peer

    name, *options = spec.split(":")
    if name in TARGETS:
        return get_target(spec)
    if name in PEERS:
        return peer(name)
    if not options:
        raise UsageError(
            f"There is no target '{spec}'.", "It is neither ours nor a peer.", "Give module:Class."
        )
    try:
        made: Any = getattr(importlib.import_module(name), options[0])(*options[1:])
    except (ImportError, AttributeError, TypeError) as error:
        raise UsageError(f"Target '{spec}' cannot be loaded.", f"{error}.", "Check the path.") from error
    if not isinstance(made, Target):
        raise UsageError(
            f"'{spec}' is no target.",
            "It needs name, available(), check(program) and compile(program).",
            "See rsc.hw_targets.Target.",
        )
    return made


def deployed(program: Program, spec: str) -> DeployedModel:
    """A program on a target.

    Raises:
        TargetUnavailable, UnsupportedNode: as `rsc.hw_targets.deploy`.
    """
    target = target_of(spec)
    missing = target.available()
    if missing is not None:
        raise TargetUnavailable(f"Target '{spec}' cannot run here.", missing.reason, missing.fix)
    errors = [issue for issue in target.check(program) if issue.severity == "error"]
    if errors:
        raise UnsupportedNode(errors[0].what, fix=errors[0].fix)
    return target.compile(program)


def exact(spec: str) -> bool:
    """Whether a target computes in float64, so that only rounding of the last bits is forgiven."""
    return getattr(target_of(spec), "arithmetic", "float32") == "float64"
