"""What the network files (.net) of lava-dl hold, as far as writing and reading them share it.

For the format see `rsc.export.netx`, for what netx makes of it `change_of_matrix`.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

BIAS_EXP = 6
WEIGHT_MIN, WEIGHT_MAX = -256, 254  # of a matrix with weights of both signs
CONV_FIELD_MAX = 127  # Lava keeps kernel size, stride, padding, dilation and groups in int8
ABOUT = "program"  # data set of the group `rsc`


class AboutLayer(msgspec.Struct, frozen=True):
    """What netx has no field for, of one layer; an offset of more than one value has its own data set."""

    name: str
    scale: float
    readout: Literal["", "sum", "state"]
    offset: float


class About(msgspec.Struct, frozen=True):
    """What netx has no field for; JSON text in the file.

    Fields:
        input, input_scale, input_maximum: the Input node.
        graded: the input carries integers, so netx must be told its message bits.
    """

    input: str
    input_scale: float
    input_maximum: int
    graded: bool
    output: str
    layers: tuple[AboutLayer, ...]
    source_digest: str


def change_of_matrix(weight: np.ndarray) -> str:
    """Why netx and Lava's Dense would not use an integer matrix as it is; "" if they do.

    netx chooses the exponent and the number of bits from the data, Lava the signs and so the range. Where
    no weight is positive the two disagree: -2^k scaled to -256 is clipped to -255 and then cut.
    """
    low, high = int(weight.min(initial=0)), int(weight.max(initial=0))
    largest = int(weight.max()) if weight.size else 0
    if low == high == 0:
        return "all its weights are 0, at which netx stops with an error."
    if low < 0 < high:
        fits = low >= WEIGHT_MIN and high <= WEIGHT_MAX
        return "" if fits else f"netx clips its weights {low}..{high} to {WEIGHT_MIN}..{WEIGHT_MAX}."
    if low == 0:
        return "" if high <= 255 else f"netx turns weights up to {high} into 0 where none is negative."
    if low < -255 or -low & (-low - 1) == 0:
        return f"netx changes weights of which none is positive and the least is {low}."
    if largest == 0 and low < -128 and (weight % 2).any():
        return f"netx turns odd weights {low}..0 into 0 where none is positive."
    return ""
