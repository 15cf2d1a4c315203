"""Events of a sensor as frames over time."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Events:
    """Events of one recording, integer arrays [n]: column, row, polarity (0 or 1), time in us."""

    x: np.ndarray
    y: np.ndarray
    p: np.ndarray
    t: np.ndarray


def bin_events(events: Events, steps: int, side: int, size: int) -> np.ndarray:
    """Event counts, float32 [T, 2, size, size]; every event is counted once.

    The recording is cut into T = `steps` spans of floor((t_last - t_first) / T) us (1 at least); what the
    division leaves over belongs to the last. Pixels are summed where `size` is below the sensor's `side`:
    column x goes to floor(x * size / side), rows likewise. Bins 0..T-2 are those of tonic's
    ToFrame(n_time_bins=T); its last bin leaves out the end of the recording, ours does not.

    Raises:
        ValueError: no events, or one outside the sensor, of another polarity or an impossible time.
    """
    if not len(events.t):
        raise ValueError("it has no events")
    if max(abs(int(events.t.min())), abs(int(events.t.max()))) >= 2**53:
        raise ValueError(f"its times are {events.t.min()}..{events.t.max()} us")
    limits = (("columns", events.x, side), ("rows", events.y, side), ("polarities", events.p, 2))
    for name, value, limit in limits:
        if value.min() < 0 or value.max() >= limit:
            raise ValueError(f"its {name} are {value.min()}..{value.max()}, outside 0..{limit - 1}")
    since = events.t - events.t.min()
    step = np.minimum(since // max(int(since.max()) // steps, 1), steps - 1)
    column, row = events.x * size // side, events.y * size // side
    flat = np.ravel_multi_index((step, events.p, row, column), (steps, 2, size, size))
    counts = np.bincount(flat, minlength=steps * 2 * size * size)
    return counts.reshape(steps, 2, size, size).astype(np.float32)
