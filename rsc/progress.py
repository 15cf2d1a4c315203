"""How long work reports where it stands; a library stays silent unless it is given a listener."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A listener: `stage` begins a piece of work, `advance` tells how far it is."""

    def stage(self, what: str) -> None:
        """A new piece of work begins."""
        ...

    def advance(self, done: int, total: int) -> None:
        """`done` of `total` units of the current piece are finished."""
        ...


class Silent:
    """Listens and says nothing."""

    def stage(self, what: str) -> None:
        """Ignore."""

    def advance(self, done: int, total: int) -> None:
        """Ignore."""
