"""Read a file for linting, also one that does not say its time step."""

from __future__ import annotations

from pathlib import Path

from rsc.export.reader import read_graph
from rsc.program import Program, Semantics, declares

ASSUMED_DT = 1e-4  # s; the default of most importers and of the files of the NIR paper


def read_source(path: str | Path, dt: float | None = None, *, trust: bool = False) -> tuple[Program, bool]:
    """The program in a NIR file, and whether its time step was stated by the file or by `dt` (seconds).

    Args:
        dt: taken where the file says nothing.
        trust: see `rsc.export.reader.read_graph`.

    Raises:
        InputRefused, TargetFault: see `rsc.export.reader.read_program`.
    """
    graph = read_graph(path, trust=trust)
    if declares(graph):
        return Program.from_graph(graph), True
    return Program.from_graph(graph, semantics=Semantics(dt=ASSUMED_DT if dt is None else dt)), dt is not None
