"""Data sets by name: images [N, C, H, W] float32 inside stated bounds, integer labels, class names.

Samples are known by their index in the split; the index is the sample id of noise keys, so
nothing depends on loading order. Nothing is ever downloaded.
"""

from __future__ import annotations

from pathlib import Path

from rsc.data.dataset import Dataset, Split
from rsc.data.lazy import LazyImages
from rsc.data.prefetch import Batch, batches
from rsc.data.table import DATASETS, Entry
from rsc.errors import UsageError, unknown_name

__all__ = ["DATASETS", "Batch", "Dataset", "Entry", "LazyImages", "Split", "batches", "load"]


def load(
    name: str, split: Split, root: Path | None = None, *, size: int | None = None, steps: int | None = None
) -> Dataset:
    """One split of the data set `name`.

    Args:
        root: the folder of sets that are not embedded (None: "data").
        size: pixels per side, for sets of image files and of events; None: what is usual for the set.
        steps: T, for sets of events; None: what is usual for the set.

    Raises:
        UsageError: unknown name or split, or an option that the set does not have.
        InputRefused: the files are not there; the message says how to get them and under which licence.
        MalformedFile: they are, but broken; sets of image or event files find that when a sample is read.
    """
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    if split not in ("train", "test"):
        raise unknown_name("split", split, ("train", "test"))
    entry = DATASETS[name]
    options = {key: value for key, value in (("size", size), ("steps", steps)) if value is not None}
    for key, value in options.items():
        if key not in entry.options:
            raise UsageError(
                f"Data set '{name}' has no option '{key}'.",
                f"Its options: {', '.join(entry.options) or 'none'}.",
                "Leave it out.",
            )
        if not isinstance(value, int) or not 1 <= value <= 4096:
            raise UsageError(f"{key} = {value!r}.", "It is an integer from 1 to 4096.", "Choose another.")
    return entry(split, root, **options)
