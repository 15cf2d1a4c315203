"""Every error a user can meet: one sentence what, one why, one what to do.

The command line turns `exit_code` into the process's status:
0 ok, 1 a gate failed, 2 usage, 3 target unavailable, 4 input refused,
5 fault (target crashed, timed out, or the machine failed, e.g. disk full), 130/143 interrupted.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RscError(Exception):
    """Root of all errors raised on purpose.

    Args:
        what: what happened, one sentence.
        why: the reason, with the offending value and the limit.
        fix: what the user can do about it.
    """

    exit_code = 5

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = what, why, fix
        super().__init__(" ".join(part for part in (what, why, fix) if part))

    def __reduce__(self) -> tuple[type[RscError], tuple[str, str, str]]:
        return type(self), (self.what, self.why, self.fix)


class GateFailed(RscError):
    """A check that the user asked for did not hold (parity, accuracy, robustness)."""

    exit_code = 1


class UsageError(RscError, ValueError):
    """A parameter is outside what it may be, or a name is not known."""

    exit_code = 2


class TargetUnavailable(RscError):
    """The target cannot run on this machine; the message says how to get it."""

    exit_code = 3


def unknown_name(
    kind: str, name: str, known: Iterable[str], otherwise: str = "Choose one of them."
) -> UsageError:
    """The error for a name that is not among `known`; it suggests the nearest one."""
    names = list(known)
    near = difflib.get_close_matches(name, names, 1)
    return UsageError(
        f"There is no {kind} '{name}'.",
        f"Known: {', '.join(names)}.",
        f"Did you mean '{near[0]}'?" if near else otherwise,
    )


class InputRefused(RscError, ValueError):
    """A file or array is malformed, unsafe, or does not fit the program."""

    exit_code = 4


class MalformedFile(InputRefused):
    """A file could not be read as what it claims to be."""


class UnsupportedNode(InputRefused):
    """A graph holds a node or a parameter that the target cannot run."""


class TargetFault(RscError):
    """A target crashed, timed out or returned something that cannot be right."""

    exit_code = 5


class StorageError(RscError, OSError):
    """Files could not be written: no space, no permission, read-only."""

    exit_code = 5

    def __str__(self) -> str:
        return " ".join(part for part in (self.what, self.why, self.fix) if part)


class Interrupted(RscError):
    """The user or the system asked the process to stop; `exit_code` is 130 or 143."""

    exit_code = 130
