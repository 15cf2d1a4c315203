"""Values of a node over all steps in an ONNX graph, in the two layouts that nodes ask for."""

from __future__ import annotations

import dataclasses

from rsc.export.onnx_scope import Scope
from rsc.shapes import Shape


@dataclasses.dataclass
class Series:
    """Values over all steps; a layout is made from another when it is asked for.

    Fields:
        shape: of one sample at one step.
        static: one step stands for all, so T is 1 in both layouts.
        long: name of [T, B, ...].
        folded: name of [T B, ...].
        other: name of the same values in the same order in some other shape.
    """

    shape: Shape
    static: bool
    long: str = ""
    folded: str = ""
    other: str = ""


@dataclasses.dataclass(frozen=True)
class Extent:
    """How long and how wide a run is, as int64 vectors of one element, known only when it runs."""

    steps: str
    batch: str

    def shape(self, s: Scope, *dims: int, steps: bool = True) -> str:
        """The vector (T, B, *dims), or (B, *dims)."""
        lead = (self.steps, self.batch) if steps else (self.batch,)
        return s.op("Concat", *lead, *([s.ints(*dims)] if dims else []), axis=0)


def long(s: Scope, series: Series, extent: Extent) -> str:
    """[T, B, ...] of a series (T is 1 of a static one)."""
    if not series.long:
        rest = s.ints(-1, *series.shape)
        if series.static:
            size = s.ints(1, -1, *series.shape)
        else:
            size = s.op("Concat", extent.steps, rest, axis=0)
        series.long = s.op("Reshape", series.folded or series.other, size)
    return series.long


def folded(s: Scope, series: Series) -> str:
    """[T B, ...] of a series."""
    if not series.folded:
        series.folded = s.op("Reshape", series.long or series.other, s.ints(-1, *series.shape))
    return series.folded


def full(s: Scope, series: Series, extent: Extent) -> str:
    """[T, B, ...] with every step written out."""
    values = long(s, series, extent)
    if not series.static:
        return values
    return s.op("Expand", values, extent.shape(s, *series.shape))
