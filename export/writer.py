"""Write programs as NIR files that every NIR tool can read, all of the file or nothing."""

from __future__ import annotations

import io
from pathlib import Path

import nir
import numpy as np

from rsc.errors import RscError, UsageError
from rsc.export.build import build_graph
from rsc.files import write_atomic
from rsc.program import Program


def write_program(program: Program, path: str | Path) -> None:
    """Write a program; `read_program` gives back one with the same digest, `nir.read` its graph.

    Shapes of convolutions that the graph leaves open are filled in, as other tools need them. `nir.read`
    needs `type_check=False` where NIR's own check fails (grouped convolutions, kernels that are not square).

    Raises:
        UsageError: a node's name cannot be kept in a file. InputRefused: the graph is not possible.
        StorageError: the file could not be written.
    """
    write_atomic(path, program_bytes(program))


def program_bytes(program: Program) -> bytes:
    """The content of a NIR file for `program`; bytes differ between library versions, digests do not."""
    graph = program.to_graph()
    fields = _checked_fields("", graph)
    buffer = io.BytesIO()
    try:
        # Weights hardly shrink, neuron parameters shrink at any level: take the quickest.
        nir.write(buffer, build_graph(fields), compression_opts=1)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        if isinstance(error, RscError):
            raise
        raise UsageError(
            "The graph cannot be written.",
            f"Metadata hold text, numbers and arrays only ({error}).",
            "Remove other values from the metadata of its nodes.",
        ) from error
    return buffer.getvalue()


def _checked_fields(name: str, graph: nir.NIRGraph) -> dict[str, object]:
    """A graph as the reader would find it in a file; the reader's checks then apply to it."""
    nodes = {}
    for key, node in graph.nodes.items():
        if not key or "/" in key or "\0" in key or set(key) == {"."}:
            raise UsageError(
                f"Node name {key!r} cannot be written.", "HDF5 uses '/' for paths.", "Rename the node."
            )
        dotted = f"{name}.{key}" if name else key
        nodes[key] = _checked_fields(dotted, node) if isinstance(node, nir.NIRGraph) else _fields(node)
    edges = [[str(a), str(b)] for a, b in graph.edges]
    return {"type": "NIRGraph", "nodes": nodes, "edges": edges, "metadata": graph.metadata or {}}


def _fields(node: nir.NIRNode) -> dict[str, object]:
    fields = {k: v for k, v in node.to_dict().items() if v is not None}
    return {k: v if isinstance(v, str | dict) else np.asarray(v) for k, v in fields.items()}
