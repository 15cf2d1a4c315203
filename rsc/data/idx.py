"""MNIST and the sets in its format: IDX files, plain or gzipped, in the folders that torchvision uses.

Format: big-endian int32 magic 0x0000_08_RR (08: bytes, RR: number of axes), one int32 per axis, then the
bytes (http://yann.lecun.com/exdb/mnist, "File formats"). Read here rather than by torchvision, which takes
no gzipped files, checks sizes by `assert` or not at all, and brings in torch.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from rsc.data.dataset import Dataset, Split
from rsc.data.source import Place

_SIDE = 28
_LIMIT = 2**29  # bytes of one file; the largest, 60,000 images, has 47 million


def read_mnist_like(place: Place, split: Split, folder: str, labels: tuple[str, ...]) -> Dataset:
    """One split of <root>/<folder>/raw.

    Raises:
        InputRefused: a file is missing.
        MalformedFile: truncated, of another format, or images and labels do not match.
    """
    stem = "train" if split == "train" else "t10k"
    raw = place.root / folder / "raw"
    images_path, pixels = _read(place, raw / f"{stem}-images-idx3-ubyte", 3)
    labels_path, targets = _read(place, raw / f"{stem}-labels-idx1-ubyte", 1)
    if pixels.shape[1:] != (_SIDE, _SIDE) or not len(pixels):
        raise place.corrupt(images_path, f"It holds {len(pixels)} images of {pixels.shape[1:]}, not 28 x 28.")
    if len(targets) != len(pixels):
        raise place.corrupt(labels_path, f"It has {len(targets)} labels for {len(pixels)} images.")
    if targets.max() >= len(labels):
        raise place.corrupt(
            labels_path, f"It has the label {targets.max()}; there are {len(labels)} classes."
        )
    images = pixels[:, None].astype(np.float32) / 255
    return Dataset(
        place.name, split, images, targets.astype(np.int64), np.arange(len(images)), (0, 1), labels
    )


def _read(place: Place, path: Path, rank: int) -> tuple[Path, np.ndarray]:
    """The file that was found and its array."""
    packed = path.with_name(path.name + ".gz")
    found = next((p for p in (path, packed) if p.is_file()), None)
    if found is None:
        raise place.missing(path)
    try:
        with gzip.open(found) if found == packed else found.open("rb") as file:
            return found, _parse(cast(IO[bytes], file), rank)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise place.unreadable(found, error) from error


def _parse(file: IO[Any], rank: int) -> np.ndarray:
    """The array of an IDX file of bytes.

    Raises:
        ValueError: it is none, or its size is not the one that its head promises.
    """
    head = file.read(4 + 4 * rank)
    expected = 0x0800 + rank
    if len(head) < 4 + 4 * rank:
        raise ValueError(f"it ends inside its head, after {len(head)} bytes")
    magic, *shape = struct.unpack(f">{1 + rank}I", head)
    if magic != expected:
        raise ValueError(f"it begins with the magic number {magic:#010x} instead of {expected:#010x}")
    size = math.prod(shape)
    if size > _LIMIT:
        raise ValueError(f"its head promises {size:,} bytes, more than {_LIMIT:,}")
    body = file.read(size + 1)
    if len(body) != size:
        more = "more" if len(body) > size else f"{len(body):,}"
        raise ValueError(f"its head promises {size:,} bytes, it has {more}")
    return np.frombuffer(body, np.uint8).reshape(shape)
