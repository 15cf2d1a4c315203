"""Ctrl-C and SIGTERM become `Interrupted` at a safe point, so that every cleanup runs."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from rsc.errors import Interrupted


def stop_cleanly() -> None:
    """Install the handlers; call it once, from the main thread of a program."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _stop)


def _stop(signum: int, frame: FrameType | None) -> None:
    """End at the next safe point; an exception in the middle of an import could abort the interpreter."""
    if _importing(frame):
        threading.Timer(0.05, signal.raise_signal, (signum,)).start()
        return
    name = "Interrupted" if signum == signal.SIGINT else "Terminated"
    error = Interrupted(f"{name}.", "Nothing was left half written.", "Run it again when you like.")
    error.exit_code = 128 + signum
    raise error


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
