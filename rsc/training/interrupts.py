"""Ctrl-C and SIGTERM while training: remembered, and obeyed at the end of the step."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from rsc.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
INSIST_AFTER_S = 1.0  # launchers pass on what the terminal has sent already: that is no second wish


class Deferred:
    """A block in which signals are only noted. Ctrl-C again, a second later or more, acts at once.

    Handlers belong to the main thread of a process: in another thread the block notes nothing.

    Attributes:
        seen: number of the first signal that came, or 0.
    """

    def __init__(self, insist: bool = True) -> None:
        """`insist`: whether a second Ctrl-C acts; not under a launcher, which sends its own."""
        self.seen = 0
        self._insist, self._since = insist, 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Deferred:
        if threading.current_thread() is threading.main_thread():
            self._before = {signum: signal.signal(signum, self._note) for signum in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.seen:
            self.seen, self._since = signum, now
        elif signum == signal.SIGINT and self._insist and now - self._since >= INSIST_AFTER_S:
            self._restore()
            signal.raise_signal(signum)

    def _restore(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}


def stopped(signum: int, where: str, saved: str) -> Interrupted:
    """The error that ends a run after a signal: exit code 130 for Ctrl-C, 143 for SIGTERM."""
    error = Interrupted(
        f"{'Interrupted' if signum == signal.SIGINT else 'Terminated'} {where}.",
        f"The run is saved in {saved}.",
        "Go on with --resume.",
    )
    error.exit_code = 128 + signum
    return error
