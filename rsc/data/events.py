"""N-MNIST, CIFAR10-DVS and DVS128 Gesture in the folders that tonic makes, as frames over time.

tonic's own classes download what they do not find, and list two of the sets in the order of the file system;
so the files are listed here, sorted. N-MNIST and DVS Gesture are a few lines of numpy; the AEDAT4 files of
CIFAR10-DVS are read by tonic (the extra `events`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rsc.data.dataset import Dataset, Split
from rsc.data.frames import Events, bin_events
from rsc.data.lazy import LazyImages
from rsc.data.source import Place
from rsc.errors import InputRefused, UsageError

_LIMIT = 2**30  # bytes of one recording
_COUNTS = (0.0, 65535.0)  # events of one pixel in one frame

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
GESTURES = (
    "Hand clapping",
    "Right hand wave",
    "Left hand wave",
    "Right arm clockwise",
    "Right arm counter-clockwise",
    "Left arm clockwise",
    "Left arm counter-clockwise",
    "Arm roll",
    "Air drums",
    "Air guitar",
    "Other gestures",
)


def read_n_mnist(place: Place, split: Split, steps: int = 10, size: int = 34) -> Dataset:
    """N-MNIST (Orchard et al. 2015), 34 x 34 pixels: <root>/NMNIST/{Train,Test}/<digit>/*.bin.

    Raises:
        InputRefused: a folder is missing or empty.
    """
    folder = place.root / "NMNIST" / ("Train" if split == "train" else "Test")
    paths = _recordings(place, folder, [str(k) for k in range(10)], ".bin")
    targets = [int(path.parent.name) for path in paths]
    labels = tuple(str(k) for k in range(10))
    return _Frames(place, paths, _read_atis, steps, 34, size).dataset(split, targets, labels)


def read_dvs_gesture(place: Place, split: Split, steps: int = 16, size: int = 128) -> Dataset:
    """DVS128 Gesture (Amir et al. 2017), 128 x 128 pixels, as tonic has cut it into single gestures.

    <root>/DVSGesture/ibmGesture{Train,Test}/<user>/<class>.npy.

    Raises:
        InputRefused: a folder is missing or empty, or a file is not named after a class.
    """
    folder = place.root / "DVSGesture" / ("ibmGestureTrain" if split == "train" else "ibmGestureTest")
    users = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    paths = _recordings(place, folder, users or ["<user>"], ".npy")
    names = {str(k): k for k in range(len(GESTURES))}
    for path in paths:
        if path.stem not in names:
            raise place.corrupt(path, f"Its name is no class 0..{len(GESTURES) - 1}.")
    targets = [names[path.stem] for path in paths]
    return _Frames(place, paths, _read_gesture, steps, 128, size).dataset(split, targets, GESTURES)


def read_cifar10_dvs(place: Place, split: Split, steps: int = 10, size: int = 128) -> Dataset:
    """CIFAR10-DVS (Li et al. 2017), 128 x 128 pixels: <root>/CIFAR10DVS/<class>/*.aedat4.

    The set has no splits of its own: the first nine tenths of each class, by number, are to train, the rest
    is held out. Ids count through both.

    Raises:
        InputRefused: a folder is missing or empty, or tonic is not installed.
    """
    folder = place.root / "CIFAR10DVS"
    paths, targets, ids, n = [], [], [], 0
    for k, name in enumerate(CIFAR10):
        found = _recordings(place, folder, [name], ".aedat4")
        cut = len(found) * 9 // 10
        chosen = slice(0, cut) if split == "train" else slice(cut, None)
        paths += found[chosen]
        ids += range(n, n + len(found))[chosen]
        targets += [k] * len(found[chosen])
        n += len(found)
    if not paths:
        raise InputRefused(
            f"'{place.name}' has no samples in the split '{split}'.",
            "Each class has one file.",
            place.command,
        )
    frames = _Frames(place, paths, _aedat4_reader(place), steps, 128, size)
    return frames.dataset(split, targets, CIFAR10, ids)


def _recordings(place: Place, folder: Path, parts: list[str], suffix: str) -> list[Path]:
    """The files folder/part/*suffix, numbers in names compared as numbers."""
    found = []
    for part in sorted(parts, key=_natural):
        here = folder / part
        files = [p for p in here.iterdir() if p.name.endswith(suffix)] if here.is_dir() else []
        if not files:
            raise place.missing(here / f"*{suffix}")
        found += sorted(files, key=lambda path: _natural(path.name))
    return found


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(digits or -1), text) for digits, text in re.findall(r"([0-9]+)|([^0-9]+)", name)]


@dataclasses.dataclass(frozen=True, eq=False)
class _Frames:
    """Recordings as frames: position -> float32 [steps, 2, size, size].

    Fields:
        read: the events of a file.
        side: pixels of the sensor per side.
    """

    place: Place
    paths: list[Path]
    read: Callable[[Path], Events]
    steps: int
    side: int
    size: int

    def __post_init__(self) -> None:
        if self.size > self.side:
            raise UsageError(
                f"Frames of {self.size} x {self.size} pixels were asked for.",
                f"The sensor of '{self.place.name}' has {self.side} x {self.side}.",
                f"Use a size up to {self.side}.",
            )

    def __call__(self, k: int) -> np.ndarray:
        path = self.paths[k]
        if not path.is_file():
            raise self.place.missing(path)
        try:
            if path.stat().st_size > _LIMIT:
                raise ValueError(f"it has {path.stat().st_size:,} bytes, more than {_LIMIT:,}")
            counts = bin_events(self.read(path), self.steps, self.side, self.size)
            if counts.max() > _COUNTS[1]:
                raise ValueError(f"it has {counts.max():,.0f} events of one pixel in one frame")
        except Exception as error:  # numpy's readers raise more than they document on broken files
            raise self.place.unreadable(path, error) from error
        return counts

    def dataset(
        self, split: Split, targets: list[int], labels: tuple[str, ...], ids: list[int] | None = None
    ) -> Dataset:
        """The split whose samples these are."""
        order = np.arange(len(self.paths))
        images = LazyImages(self, (self.steps, 2, self.size, self.size), order)
        known = order if ids is None else np.array(ids, np.int64)
        classes = np.array(targets, np.int64)
        return Dataset(self.place.name, split, images, classes, known, _COUNTS, labels, frames=True)


def _read_atis(path: Path) -> Events:
    """N-MNIST's format: 5 bytes per event (x; y; polarity and 23 bits of time in us).

    A row of 240 marks an overflow of the time: 2**13 us more from there on (as tonic reads it).

    Raises:
        ValueError: not a whole number of events.
    """
    raw = np.fromfile(path, np.uint8)
    if len(raw) % 5:
        raise ValueError(f"its {len(raw):,} bytes are no whole number of 5-byte events")
    x, y, a, b, c = raw.reshape(-1, 5).T.astype(np.int64)
    t = ((a & 127) << 16 | b << 8 | c) + np.cumsum(y == 240) * 2**13
    real = y != 240
    return Events(x[real], y[real], (a >> 7)[real], t[real])


def _read_gesture(path: Path) -> Events:
    """A numpy array [n, 4] of x, y, polarity and time in ms; times become us.

    Raises:
        ValueError: another array.
    """
    raw = np.lib.format.open_memmap(path, mode="r")  # refuses pickles and heads that promise too much
    if raw.ndim != 2 or raw.shape[1] != 4 or raw.dtype.kind not in "iuf" or not np.isfinite(raw).all():
        raise ValueError("it holds no array [n, 4] of finite numbers")
    x, y, p, t = np.clip(raw, -(2**52), 2**52).T.astype(np.int64)  # so that nothing wraps; refused by range
    return Events(x, y, p, t * 1000)


def _aedat4_reader(place: Place) -> Callable[[Path], Events]:
    """Reads AEDAT4 files through tonic.

    Raises:
        InputRefused: tonic or its decoder is not installed.
    """
    try:
        import aedat  # noqa: F401  # pyright: ignore[reportMissingImports, reportUnusedImport]
        from tonic.io import read_aedat4  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputRefused(
            f"Data set '{place.name}' needs tonic and aedat.",
            f"Its files are AEDAT4, which they decode ({error}).",
            "Install the extra: pip install 'rsc-snn[events]'.",
        ) from error

    def read(path: Path) -> Events:
        try:
            raw: Any = read_aedat4(str(path))
            names = raw.dtype.names
            fields = (raw["x"], raw["y"], raw["on" if "on" in names else "p"], raw["t"])
        # A foreign decoder: broken files end in whatever it raises, a Rust panic is even no Exception.
        except BaseException as error:
            if isinstance(error, Exception) or type(error).__name__ == "PanicException":
                raise ValueError(f"tonic cannot decode it ({type(error).__name__}: {error})") from error
            raise
        return Events(*(np.asarray(f).astype(np.int64) for f in fields))

    return read
