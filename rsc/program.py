"""What is deployed: a NIR graph, how it is fed, and how its equations are stepped.

A NIR file holds neither the time step, nor the reset rule, nor an encoder. A `Program` adds
them as plain values and carries them through files as one JSON string in the metadata of the
`nir.Input` node (key `rsc.program`), so the graph stays readable by every other NIR tool.
Nothing in this module can run a program, and torch is not needed to read one.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
from functools import cached_property
from typing import Any, Literal, get_args, get_origin

import msgspec
import nir
import numpy as np

from rsc.encoder_spec import EncoderKind, EncoderSpec, Stage
from rsc.encoder_spec import written as _written
from rsc.errors import InputRefused, MalformedFile, UsageError
from rsc.quantiser import Quantiser

METADATA_KEY = "rsc.program"

__all__ = [
    "METADATA_KEY",
    "EncoderKind",
    "EncoderSpec",
    "Program",
    "Semantics",
    "Stage",
    "declares",
    "walk",
]


class Semantics(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How the differential equations of a NIR graph are stepped; NIR itself leaves this open.

    With k = dt/tau, kept = 1 - k ("euler") or exp(-dt/tau), x the sum of what arrives and z the spikes:

        h_t = kept v_{t-1} + gain x_t + (1 - kept) v_leak
        z_t = [h_t > v_threshold],  v_t = reset(h_t, z_t)

    The fields after `delayed_edges` are the habits of other simulators (`rsc.presets`). Their defaults are
    written to no file, so a program that uses none of them has the digest it always had; a target that does
    not know one refuses it (`rsc.discretise.special_rules`).

    Fields:
        dt: time step in seconds.
        integrator: "euler" (forward), "exponential" (exact for constant input: gain R (1 - kept)) or
            "mixed" (exact decay, but gain R dt/tau as in Euler; synapses alike).
        reset: after a spike v becomes v_reset ("value"), 0 whatever v_reset says ("zero"), or
            v - z v_threshold ("subtract").
        comparison: a neuron fires when v `comparison` v_threshold.
        readout: how the output [T, B, K] becomes logits [B, K].
        delayed_edges: edges (from, to), by dotted node names, that hand over the value of the previous
            step, 0 before the first; None leaves the choice to the rules of `rsc.delays`: recurrent
            spikes arrive one step later.
        reset_step: "same": v_t is h_t after its reset. "next": v_t = h_t, and the step after resets for
            z' = [v_{t-1} > v_threshold]: h_t = kept v_{t-1} + ... - z' v_threshold ("subtract", the leak
            does not touch what is taken away), or v_{t-1} is replaced before it leaks (other resets).
            "hold": v_t = h_t, and in the step after z' = 1 the membrane is at its reset value whatever
            arrives (resets to a value).
            "crossing": the reset takes place inside the step, when v reaches v_threshold under the input
            held over the step, and v goes on from there (integrator "exponential").
        spikes_per_step: "one", or "many": z_t = max(0, floor(h_t / v_threshold)) under ">=", and
            max(0, ceil(h_t / v_threshold) - 1) under ">"; "subtract" takes z_t thresholds away.
        clamp: after its reset v_t is raised to at least -v_threshold: never ("none"), in IF ("if"), or in
            IF, LIF and CubaLIF ("all").
        v0: the membrane before the first step is 0 ("zero") or v_leak ("v_leak", neurons that have one).
        input_gain: gain in I, IF, LI, LIF: "r" is that of the integrator (I, IF: R dt); "leak" leaves R out
            (I, IF: 1); "one" is 1. Neurons with a synapse always use R.
        current: a membrane behind a synapse uses the current of this step ("new") or the last ("old").
        shift: which nodes are heard one step late, on every edge that leaves them, 0 before the first:
            "none", "spikes" (IF, LIF, CubaLIF) or "weights" (Affine, Linear, Conv1d, Conv2d). A cycle
            delayed so gets no further delay.
        recurrent_bias: whether a stateless node that hears only the step before hears 0 at the first step,
            so that a recurrent Affine adds its bias there; False: it is heard as 0 at the first step.
    """

    dt: float
    integrator: Literal["euler", "exponential", "mixed"] = _written("euler")
    reset: Literal["value", "zero", "subtract"] = _written("value")
    comparison: Literal[">", ">="] = _written(">")
    readout: Literal["mean", "sum", "last"] = _written("mean")
    delayed_edges: tuple[tuple[str, str], ...] | None = _written(None)
    reset_step: Literal["same", "next", "hold", "crossing"] = "same"
    spikes_per_step: Literal["one", "many"] = "one"
    clamp: Literal["none", "if", "all"] = "none"
    v0: Literal["zero", "v_leak"] = "zero"
    input_gain: Literal["r", "leak", "one"] = "r"
    current: Literal["new", "old"] = "new"
    shift: Literal["none", "spikes", "weights"] = "none"
    recurrent_bias: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.dt) and self.dt > 0):
            raise UsageError(f"dt is {self.dt}.", "A time step is positive and in seconds.", "Use e.g. 1e-3.")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UsageError(
                    f"Semantics have {name} = {getattr(self, name)!r}.",
                    f"It is one of {', '.join(map(repr, choices))}.",
                    "Correct it.",
                )
        if self.reset_step == "hold" and self.reset == "subtract":
            raise UsageError(
                "Semantics have reset_step 'hold' and reset 'subtract'.",
                "A membrane is held at a value.",
                "Use reset 'value' or 'zero', or reset_step 'next'.",
            )
        if self.reset_step == "crossing" and self.integrator != "exponential":
            raise UsageError(
                f"Semantics have reset_step 'crossing' and integrator '{self.integrator}'.",
                "Only the exponential integrator knows the membrane inside a step.",
                "Use integrator 'exponential', or reset_step 'same'.",
            )


_CHOICES: dict[str, tuple[object, ...]] = {
    field.name: get_args(field.type)
    for field in msgspec.structs.fields(Semantics)
    if get_origin(field.type) is Literal
}


class _Metadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON string that rides in the file."""

    semantics: Semantics
    encoder: EncoderSpec | None = None
    bounds: tuple[float, float] | None = None
    labels: tuple[str, ...] = ()
    version: int = 1
    quantiser: Quantiser | msgspec.UnsetType = msgspec.UNSET  # written only where there is one


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A NIR graph with everything that NIR leaves open. Immutable, hashable by content.

    Args:
        graph: the network; copied, its arrays become read-only.
        semantics: how it is stepped.
        encoder: how an image becomes frames; None if only ready-made frames can be fed.
        bounds: (lowest, highest) legal value of an input image; None if there is no limit.
        labels: names of the classes, in the order of the logits.
        quantiser: how integer targets hold it; None leaves it to the program's bounds.
    """

    graph: nir.NIRGraph
    semantics: Semantics
    encoder: EncoderSpec | None = None
    bounds: tuple[float, float] | None = None
    labels: tuple[str, ...] = ()
    quantiser: Quantiser | None = None

    def __post_init__(self) -> None:
        graph = _frozen_copy(self.graph)
        object.__setattr__(self, "graph", graph)
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise UsageError(f"bounds are {self.bounds}.", "The lower must be below the upper.", "Swap them.")
        if not self.inputs:
            raise InputRefused(
                "The graph has no Input node.", "Nothing can be fed into it.", "Add a nir.Input."
            )

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the Input nodes, sorted."""
        return tuple(sorted(k for k, n in self.graph.nodes.items() if isinstance(n, nir.Input)))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the Output nodes, sorted."""
        return tuple(sorted(k for k, n in self.graph.nodes.items() if isinstance(n, nir.Output)))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one frame of the first input, without time and batch."""
        node = self.graph.nodes[self.inputs[0]]
        return tuple(int(d) for d in np.atleast_1d(next(iter(node.input_type.values()))))

    @property
    def node_names(self) -> tuple[str, ...]:
        """Dotted names of all nodes, nested graphs opened, sorted."""
        return tuple(name for name, _ in walk(self.graph))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the content; the same for the same program whatever file it came from."""
        sha = hashlib.sha256()
        _update(sha, self.graph)
        sha.update(self.metadata_json())
        return sha.hexdigest()

    def __hash__(self) -> int:
        return int(self.digest[:15], 16)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self.digest == other.digest

    def metadata_json(self) -> bytes:
        """Everything but the graph, as canonical JSON."""
        integers = msgspec.UNSET if self.quantiser is None else self.quantiser
        fields = _Metadata(self.semantics, self.encoder, self.bounds, self.labels, quantiser=integers)
        given = msgspec.json.encode(fields)
        typed = msgspec.json.decode(given, type=_Metadata)  # 1 and 1.0 become the same number
        return msgspec.json.encode(typed, order="deterministic")

    def to_graph(self) -> nir.NIRGraph:
        """A writable copy of the graph with the metadata in its first Input node."""
        graph = copy.deepcopy(self.graph)
        graph.nodes[self.inputs[0]].metadata[METADATA_KEY] = self.metadata_json().decode()
        return graph

    @classmethod
    def from_graph(cls, graph: nir.NIRGraph, **fallback: Any) -> Program:
        """The program that `graph` carries; `fallback` gives its fields when it carries none.

        Raises:
            InputRefused: no metadata and no `semantics` in `fallback`.
            MalformedFile: the metadata is there but cannot be read.
        """
        found = _declarations(graph)
        if not found:
            if fallback.get("semantics") is None:
                raise InputRefused(
                    "The NIR graph says nothing about its time step.",
                    "NIR files carry no dt, and results depend on it.",
                    "Give it, e.g. --dt 1e-4 (seconds, the unit of tau in most files).",
                )
            return cls(graph, **fallback)
        try:
            text = found[0] if isinstance(found[0], str | bytes) else str(np.asarray(found[0]).item())
            meta = msgspec.json.decode(text, type=_Metadata)
        except (msgspec.DecodeError, ValueError, AttributeError) as error:
            raise MalformedFile(
                f"The metadata '{METADATA_KEY}' of the Input node cannot be read.",
                str(error),
                "Export it again.",
            ) from error
        given = {k: v for k, v in fallback.items() if v is not None}
        fields = {
            "semantics": meta.semantics,
            "encoder": meta.encoder,
            "bounds": meta.bounds,
            "labels": meta.labels,
            "quantiser": meta.quantiser or None,
        }
        return cls(graph, **(fields | given))


def declares(graph: nir.NIRGraph) -> bool:
    """Whether a graph carries the metadata of a program: semantics, encoder, bounds, labels."""
    return bool(_declarations(graph))


def _declarations(graph: nir.NIRGraph) -> list[Any]:
    return [
        node.metadata[METADATA_KEY]
        for _, node in sorted(graph.nodes.items())
        if isinstance(node, nir.Input) and METADATA_KEY in node.metadata
    ]


def _frozen_copy(graph: nir.NIRGraph) -> nir.NIRGraph:
    graph = copy.deepcopy(graph)
    for _, node in walk(graph):
        if hasattr(node, "metadata"):
            node.metadata.pop(METADATA_KEY, None)
        for key, value in list(vars(node).items()):
            if hasattr(value, "detach"):  # exporters leave torch tensors in their graphs
                setattr(node, key, np.array(value.detach().cpu()))
        if isinstance(node, nir.Affine | nir.Conv1d | nir.Conv2d) and np.ndim(node.bias) == 0:
            node.bias = full_bias(node)
        for value in vars(node).values():
            if isinstance(value, np.ndarray):
                value.setflags(write=False)
    return graph


def full_bias(node: nir.Affine | nir.Conv1d | nir.Conv2d) -> np.ndarray:
    """One bias per output of a node that holds one for all, or none (None or False)."""
    weight = np.asarray(node.weight)
    sites = weight.shape[:-1] if isinstance(node, nir.Affine) else weight.shape[:1]
    if node.bias is None or node.bias is False or np.asarray(node.bias).dtype == bool:
        return np.zeros(sites, weight.dtype)
    return np.full(sites, node.bias)


def walk(graph: nir.NIRGraph, prefix: str = "") -> list[tuple[str, Any]]:
    """All nodes with their dotted names, nested graphs opened, sorted by name."""
    found: list[tuple[str, Any]] = []
    for name, node in sorted(graph.nodes.items()):
        found.append((prefix + name, node))
        if isinstance(node, nir.NIRGraph):
            found += walk(node, f"{prefix}{name}.")
    return found


_DERIVED = {"input_type", "output_type", "metadata", "nodes", "edges", "input_shape"}


def _update(sha: Any, graph: nir.NIRGraph) -> None:
    """Feed a graph to a hash: nodes by name, fields by name, arrays with dtype and shape."""
    for name, node in sorted(graph.nodes.items()):
        sha.update(f"\0node {name} {type(node).__name__}".encode())
        if isinstance(node, nir.NIRGraph):
            _update(sha, node)
            continue
        fields = {f.name: getattr(node, f.name) for f in dataclasses.fields(node) if f.name not in _DERIVED}
        if isinstance(node, nir.Input | nir.Output):
            types = node.input_type if isinstance(node, nir.Input) else node.output_type
            fields["shape"] = next(iter(types.values()))
        for key, value in sorted(fields.items()):
            value = value if value is not None else []
            array = np.ascontiguousarray(value)
            if array.dtype.kind in "OUS":
                sha.update(f"\0{key} {value}".encode())
            else:
                sha.update(f"\0{key} {array.dtype.str} {np.shape(value)}".encode() + array.tobytes())
    for edge in sorted((str(a), str(b)) for a, b in graph.edges):
        sha.update(f"\0edge {edge}".encode())
