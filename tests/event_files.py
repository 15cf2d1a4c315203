"""Recordings of event cameras in the formats of their sets, written event by event."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rsc.data.frames import Events


def recording(n: int, side: int, span: int, seed: int = 0) -> Events:
    """Random events in order of time, as sensors write them."""
    draw = np.random.Generator(np.random.PCG64(seed))
    t = np.sort(draw.integers(0, span, n)) + 1000
    return Events(draw.integers(0, side, n), draw.integers(0, side, n), draw.integers(0, 2, n), t)


def blob(label: int, n: int, side: int, span: int, seed: int) -> Events:
    """Events around a place of the sensor that tells one of eleven classes."""
    events, draw = recording(n, side, span, seed), np.random.Generator(np.random.PCG64([seed, 1]))
    row, column = divmod(label, 4)
    place = [(2 * k + 1) * side / 8 + draw.normal(0, side / 20, n) for k in (column, row)]
    x, y = (np.clip(where, 0, side - 1).astype(np.int64) for where in place)
    return Events(x, y, events.p, events.t)


def write_atis(path: Path, events: Events) -> None:
    """N-MNIST's 40 bits: x, y, polarity, 23 bits of time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    t = events.t
    columns = (events.x, events.y, events.p << 7 | t >> 16, t >> 8 & 255, t & 255)
    path.write_bytes(np.stack(columns, 1).astype(np.uint8).tobytes())


def write_gesture(path: Path, events: Events) -> None:
    """tonic's array [n, 4] of x, y, polarity and ms."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.stack([events.x, events.y, events.p, events.t], 1))


def write_n_mnist(root: Path, train: int = 6, test: int = 3, events: int = 120) -> Path:
    """An N-MNIST of so many recordings per digit, whose digits differ by where their events are."""
    for split, count in (("Train", train), ("Test", test)):
        for digit in range(10):
            for k in range(count):
                seed = 1000 * digit + 2 * k + (split == "Test")
                path = root / "NMNIST" / split / str(digit) / f"{k:05}.bin"
                write_atis(path, blob(digit, events, 34, 300_000, seed))
    return root


def write_dvs_gesture(root: Path, users: int = 2, events: int = 200) -> Path:
    """A DVS Gesture of a few users in both splits."""
    for split in ("Train", "Test"):
        for user in range(users):
            for label in range(11):
                path = root / "DVSGesture" / f"ibmGesture{split}" / f"user{user:02}_led" / f"{label}.npy"
                write_gesture(
                    path, blob(label, events, 128, 6000, 100 * label + 2 * user + (split == "Test"))
                )
    return root
