"""Interval proofs of the deployed integers in the form that the health check R19 asks for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from rsc.errors import UsageError
from rsc.export.loihi import lower
from rsc.program import Program
from rsc.results import Keys
from rsc.robustness.intervals import IntervalProgram
from rsc.robustness.intervals_images import Coded, ball
from rsc.robustness.intervals_margin import Readout, proved

Verifier = Callable[[np.ndarray, np.ndarray, float, Keys], np.ndarray]


def interval_verifier(program: Program) -> Verifier:
    """(images, labels, eps, keys) -> bool [B]: the label is proved for all images of the L_inf ball.

    Raises:
        UsageError: the program names no encoder or no bounds.
        UnsupportedNode: it has no integer form.
    """
    encoder, bounds = program.encoder, program.bounds
    if encoder is None or bounds is None:
        raise UsageError("This program cannot be verified.", "It names no encoder or no bounds.", "Add both.")
    intervals = IntervalProgram(lower(program, "integer"))
    readout = Readout(intervals, program.semantics.readout)

    def verify(x: np.ndarray, y: np.ndarray, eps: float, keys: Keys) -> np.ndarray:
        coded = Coded.drawn(intervals.layered, encoder, keys)
        found = intervals.bounds(coded.boxes(*ball(x, eps, bounds)))
        return np.asarray(proved(readout.margins(found, torch.from_numpy(np.asarray(y, np.int64)))))

    return verify
