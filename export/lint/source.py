"""A graph for linting, also one that does not say its time step."""

from __future__ import annotations

from pathlib import Path

import nir

from rsc.export.reader import read_graph
from rsc.program import Program, Semantics, declares

ASSUMED_DT = 1e-4  # s; the default of most importers and of the files of the NIR paper


def from_source(graph: nir.NIRGraph, dt: float | None = None) -> tuple[Program, bool]:
    """The program of a graph, and whether its time step was stated by its metadata or by `dt` (seconds).

    Args:
        dt: taken where the graph says nothing.
    """
    if declares(graph):
        return Program.from_graph(graph), True
    return Program.from_graph(graph, semantics=Semantics(dt=ASSUMED_DT if dt is None else dt)), dt is not None


def read_source(path: str | Path, dt: float | None = None) -> tuple[Program, bool]:
    """`from_source` of a file.

    Raises:
        InputRefused, TargetFault: see `rsc.export.reader.read_program`.
    """
    return from_source(read_graph(path), dt)
