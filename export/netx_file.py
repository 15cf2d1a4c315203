"""HDF5 network files of lava-dl as plain groups, arrays and texts, whatever the bytes are.

The file is opened by `rsc.export.hdf5_file`; each field is checked when it is asked for.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from rsc.errors import InputRefused, MalformedFile, UnsupportedNode
from rsc.export.hdf5_file import read_tree
from rsc.export.netx_format import CONV_FIELD_MAX

MAX_NEURONS = 1 << 24  # of all layers and the input together
GROUPS = ("layer", "rsc")
_WORDS = {  # of messages about NIR files
    "a NIR file": "a network file of lava-dl",
    "NIR files": "Such files",
    "A NIR parameter": "A parameter",
    "NIR parameters": "Parameters",
    "nir.write": "export_hdf5",
    ".nir": ".net",
}


@dataclasses.dataclass
class Group:
    """Fields of an HDF5 group, each checked when it is asked for."""

    fields: Any
    path: str

    def __post_init__(self) -> None:
        if not isinstance(self.fields, dict):
            raise malformed(self.path, "it is not a group")

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def group(self, name: str) -> Group:
        """A group in it."""
        return Group(self.fields.get(name), f"{self.path}/{name}")

    def text(self, name: str) -> str:
        """One text."""
        value = self.fields.get(name)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if not isinstance(value, str):
            raise malformed(f"{self.path}/{name}", "it is not one text")
        return value

    def whole(self, name: str, low: int, high: int) -> np.ndarray:
        """An array of whole numbers in low..high, as int64 [...]."""
        where, value = f"{self.path}/{name}", self.fields.get(name)
        if name not in self.fields:
            raise malformed(where, "it is missing")
        array = np.asarray(value)
        if isinstance(value, dict | list | str) or array.dtype.kind not in "biuf" or not array.size:
            raise malformed(where, "it is not a number or an array of numbers")
        if not np.isfinite(array).all() or (array != np.rint(array)).any():
            raise malformed(where, "it holds fractions, which netx cuts off; export a quantised network")
        if array.min() < low or array.max() > high:
            raise malformed(where, f"{array.min()}..{array.max()} is outside {low}..{high}")
        return array.astype(np.int64)

    def number(self, name: str, low: int, high: int) -> int:
        """One whole number in low..high."""
        array = self.whole(name, low, high)
        if array.size != 1:
            raise malformed(f"{self.path}/{name}", "it is not one number")
        return int(array.item())

    def pair(self, name: str, low: int) -> tuple[int, int]:
        """(h, w); one number stands for both."""
        array = self.whole(name, low, CONV_FIELD_MAX)
        if array.size not in (1, 2) or array.ndim > 1:
            raise malformed(f"{self.path}/{name}", "it is not (height, width)")
        return (int(array.flat[0]), int(array.flat[-1]))

    def shape(self) -> tuple[int, ...]:
        """The field "shape": (n,) or (C, H, W)."""
        array = self.whole("shape", 1, MAX_NEURONS)
        if array.ndim != 1 or len(array) not in (1, 3):
            raise malformed(f"{self.path}/shape", "it is neither (n) nor (C, H, W)")
        return tuple(int(v) for v in array)

    def unused(self, name: str, *usual: float) -> None:
        """Refuse values of a field that netx does not look at."""
        value = np.asarray(self.fields.get(name, usual[0]))
        if value.dtype.kind not in "biuf" or not np.isin(value, usual).all():
            raise unsupported(f"{self.path}/{name}", f"netx does not look at it; only {usual[0]:g} is read")


def malformed(where: str, why: str) -> MalformedFile:
    """The error for a field that no such file can have."""
    return MalformedFile(
        f"'{where}' is not possible in a network file.", f"{why[:1].upper()}{why[1:]}.", "Export it again."
    )


def unsupported(where: str, why: str) -> UnsupportedNode:
    """The error for something that we, and mostly netx too, cannot run."""
    return UnsupportedNode(
        f"'{where}' cannot be read.", f"{why[:1].upper()}{why[1:]}.", "Export the network without it."
    )


def read_groups(path: str | Path, trust: bool) -> dict[str, Any]:
    """The groups of `GROUPS` that a file has, as dictionaries of arrays and texts.

    Raises:
        InputRefused, MalformedFile, TargetFault: as `rsc.export.reader.read_graph`.
    """
    try:
        return read_tree(path, trust=trust, names=GROUPS)
    except InputRefused as error:
        parts = [error.what, error.why, error.fix]
        for ours, theirs in _WORDS.items():
            parts = [part.replace(ours, theirs) for part in parts]
        raise type(error)(*parts) from error
