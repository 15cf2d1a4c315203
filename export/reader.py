"""Read NIR files that may be damaged or hostile.

HDF5 is only ever opened in a short-lived process with little memory and time (`rsc.export.hdf5_file`); this
process gets plain arrays from it, checks every field and builds the graph. Whatever the bytes are, the
outcome is a graph or an `RscError`.
"""

from __future__ import annotations

from pathlib import Path

import nir

from rsc.export.build import build_graph
from rsc.export.hdf5_file import read_tree
from rsc.program import EncoderSpec, Program, Semantics


def read_program(
    path: str | Path,
    *,
    semantics: Semantics | None = None,
    encoder: EncoderSpec | None = None,
    trust: bool = False,
    verified: bool = False,
) -> Program:
    """The program in a NIR file.

    Args:
        path: file written by `write_program`, `nir.write` or another NIR tool of any version.
        semantics: time step and rules; needed if the file carries none, else takes precedence.
        encoder: how images become frames; takes precedence over the file's.
        trust: lift the limits on size, memory and time, and only warn of tau <= 0.
        verified: the caller has just found the file's digest to be the expected one, so it is read in
            this process; every field is still checked.

    Raises:
        InputRefused (MalformedFile, UnsupportedNode): the file is not safe, not NIR, not possible,
            or says nothing about its time step and `semantics` is missing.
        TargetFault: the reading process could not be started.
    """
    graph = read_graph(path, trust=trust, verified=verified)
    return Program.from_graph(graph, semantics=semantics, encoder=encoder)


def read_graph(path: str | Path, *, trust: bool = False, verified: bool = False) -> nir.NIRGraph:
    """The graph in a NIR file, with all shapes known; see `read_program` for arguments and errors."""
    return build_graph(read_tree(path, trust=trust, verified=verified), trust)
