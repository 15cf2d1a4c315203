"""NIR nodes from plain dictionaries (field -> value), each field checked before it is used."""

from __future__ import annotations

import math
import warnings
from typing import Any

import nir
import numpy as np

from rsc.errors import InputRefused, MalformedFile, UnsupportedNode
from rsc.export.batch_axis import drop_batch_axis
from rsc.export.shapes import MAX_ELEMENTS, infer_shapes, set_window_types
from rsc.program import declares, full_bias

_CONV = ("weight", "stride", "padding", "dilation", "groups", "bias")
_POOL = ("kernel_size", "stride", "padding")
_FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # type -> (required, optional)
    "Input": (("shape",), ()),
    "Output": (("shape",), ()),
    "Affine": (("weight", "bias"), ()),
    "Linear": (("weight",), ()),
    "Scale": (("scale",), ()),
    "Conv1d": (_CONV, ("input_shape",)),
    "Conv2d": (_CONV, ("input_shape",)),
    "SumPool2d": (_POOL, ()),
    "AvgPool2d": (_POOL, ()),
    "Flatten": (("start_dim", "end_dim"), ("input_type",)),
    "Delay": (("delay",), ()),
    "Threshold": (("threshold",), ()),
    "I": (("r",), ()),
    "IF": (("r", "v_threshold"), ("v_reset",)),
    "LI": (("tau", "r", "v_leak"), ()),
    "LIF": (("tau", "r", "v_leak", "v_threshold"), ("v_reset",)),
    "CubaLI": (("tau_syn", "tau_mem", "r", "v_leak"), ("w_in",)),
    "CubaLIF": (("tau_syn", "tau_mem", "r", "v_leak", "v_threshold"), ("v_reset", "w_in")),
    "NIRGraph": (("nodes", "edges"), ()),
}
_NEURONS = ("I", "IF", "LI", "LIF", "CubaLI", "CubaLIF", "Scale", "Delay", "Threshold")
_TAUS = ("tau", "tau_mem", "tau_syn")
_INTEGERS = ("stride", "padding", "dilation", "kernel_size", "groups", "start_dim", "end_dim", "shape")


def build_graph(fields: dict[str, Any], trust: bool = False) -> nir.NIRGraph:
    """The graph that a file describes, with all shapes known.

    Args:
        fields: {"type": "NIRGraph", "nodes": {name: fields}, "edges": [[a, b], ...], "metadata": ...}.
        trust: warn about impossible values (tau <= 0) instead of refusing them.

    Raises:
        MalformedFile: fields missing, unknown or of wrong shape. UnsupportedNode: unknown type.
        InputRefused: values that no network can have (NaN, infinity, tau <= 0).
    """
    if fields.get("type") != "NIRGraph":
        raise MalformedFile(
            "The file holds no graph.", f"Its root is of type {fields.get('type')!r}.", "Wrap it."
        )
    graph = _graph("", fields, trust)
    foreign = not declares(graph)
    if foreign:
        drop_batch_axis(graph)
    infer_shapes(graph, ports=foreign)
    if not graph.inputs or not graph.outputs:
        raise MalformedFile(
            "The graph has no Input or no Output.", "Nothing would go in or out.", "Add them."
        )
    return graph


def _graph(name: str, fields: dict[str, Any], trust: bool) -> nir.NIRGraph:
    nodes, edges = fields["nodes"], fields["edges"]
    if not isinstance(nodes, dict) or not nodes:
        raise MalformedFile(f"Graph '{name}' has no nodes.", "An empty graph cannot run.", "Export it again.")
    prefix = f"{name}." if name else ""
    built = {str(n): _node(prefix + str(n), value, trust) for n, value in nodes.items()}
    graph = nir.NIRGraph.__new__(nir.NIRGraph)  # its constructor would infer nested types again and again
    graph.nodes, graph.edges, graph.metadata = built, _edges(name, edges, built), _metadata(name, fields)
    graph.input_type = graph.output_type = {}
    return graph


def _edges(name: str, edges: Any, nodes: dict[str, Any]) -> list[tuple[str, str]]:
    if isinstance(edges, np.ndarray) and edges.size == 0:
        return []
    pairs = isinstance(edges, list) and all(
        isinstance(e, list | tuple) and len(e) == 2 and all(isinstance(end, str) for end in e) for e in edges
    )
    if not pairs:
        raise MalformedFile(f"The edges of graph '{name}' are no pairs of names.", "", "Export it again.")
    found = [(str(a), str(b)) for a, b in edges]
    for end in (e for pair in found for e in pair):
        if end not in nodes:
            raise MalformedFile(
                f"An edge names the node '{end}', which does not exist.",
                f"Nodes: {', '.join(sorted(nodes)[:20])}.",
                "Correct the edge.",
            )
    if len(set(found)) < len(found):
        twice = next(e for e in found if found.count(e) > 1)
        raise MalformedFile(f"The edge {twice[0]} -> {twice[1]} occurs twice.", "", "Remove one.")
    for a, b in found:
        if isinstance(nodes[b], nir.Input) or isinstance(nodes[a], nir.Output):
            raise MalformedFile(
                f"The edge {a} -> {b} runs backwards.", "Inputs give and Outputs take.", "Correct it."
            )
    return found


def _metadata(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    metadata = fields.get("metadata", {})
    if not isinstance(metadata, dict):
        raise MalformedFile(f"The metadata of '{name}' are no group.", "", "Export it again.")
    return metadata


def _node(name: str, fields: Any, trust: bool) -> Any:
    if not isinstance(fields, dict) or not isinstance(fields.get("type"), str):
        raise MalformedFile(f"Node '{name}' has no type.", "A '/' in a node's name does that.", "Rename it.")
    kind = fields["type"]
    if kind not in _FIELDS:
        raise UnsupportedNode(
            f"Node '{name}' is of unknown type '{kind}'.", "NIR has no such primitive.", "Replace it."
        )
    required, optional = _FIELDS[kind]
    given = set(fields) - {"type", "metadata"}
    if not set(required) <= given or given - set(required) - set(optional):
        missing = ", ".join(sorted(set(required) - given)) or "nothing"
        extra = ", ".join(sorted(given - set(required) - set(optional))) or "nothing"
        raise MalformedFile(
            f"{kind} '{name}' has wrong fields.", f"Missing: {missing}; unknown: {extra}.", "Correct it."
        )
    if kind == "NIRGraph":
        return _graph(name, fields, trust)
    values = {k: _value(name, k, fields[k]) for k in given}
    _refuse_impossible(name, values, trust)
    node = _construct(name, kind, values)
    node.metadata = _metadata(name, fields)
    return node


def _value(name: str, key: str, value: Any) -> Any:
    """One field as array or string; integers where integers are meant."""
    if isinstance(value, str):
        if key == "padding" and value in ("same", "valid"):
            return value
        raise MalformedFile(
            f"'{key}' of node '{name}' is text.", f"{value[:40]!r} is not a number.", "Correct it."
        )
    if not isinstance(value, np.ndarray | np.generic | int | float):
        raise MalformedFile(f"'{key}' of node '{name}' is no array.", "", "Export it again.")
    array = np.asarray(value)
    if key in _INTEGERS or (key in ("input_shape", "input_type") and array.size):
        if array.dtype.kind not in "iu" or array.ndim > 1 or array.size > 16:
            raise MalformedFile(
                f"'{key}' of node '{name}' is no integer.", f"It is {array.dtype}.", "Correct it."
            )
        if np.abs(array).max(initial=0) > MAX_ELEMENTS:
            raise MalformedFile(
                f"'{key}' of node '{name}' is too large.", f"{array.tolist()}.", "Correct it."
            )
    return array


def _refuse_impossible(name: str, values: dict[str, Any], trust: bool) -> None:
    for key, value in values.items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.isfinite(value).all():
            raise InputRefused(
                f"'{key}' of node '{name}' is not finite.", "NaN or infinity.", "Train it again."
            )
    for key in (k for k in (*_TAUS, "delay") if k in values):
        low = values[key].min(initial=1)
        if low < 0 or (low == 0 and key in _TAUS):
            what, why = (
                f"'{key}' of node '{name}' is {low:g}.",
                "Time constants are positive, delays not negative.",
            )
            if not trust:
                raise InputRefused(what, why, "Correct the file, or read it with trust=True.")
            warnings.warn(f"{what} {why}", stacklevel=2)
    thresholds = values.get("v_threshold", np.ones(1))
    if (thresholds <= 0).any():
        warnings.warn(
            f"'v_threshold' of node '{name}' is {thresholds.min():g}: neurons fire without input.",
            stacklevel=2,
        )


def _construct(name: str, kind: str, v: dict[str, Any]) -> Any:
    if kind in ("Input", "Output"):
        return getattr(nir, kind)(_shape(name, v["shape"]))
    if kind in ("Affine", "Linear"):
        return _linear(name, kind, v)
    if kind in ("Conv1d", "Conv2d"):
        return _conv(name, kind, v)
    if kind in ("SumPool2d", "AvgPool2d"):
        pair = {k: _per_axis(name, k, v[k], 2) for k in _POOL}
        return getattr(nir, kind)(**pair)
    if kind == "Flatten":
        return _flatten(name, v)
    shapes = {k: a.shape for k, a in v.items() if k != "w_in"}
    if len(set(shapes.values())) > 1:
        raise MalformedFile(
            f"The parameters of {kind} '{name}' differ in shape.", f"{shapes}.", "Make them equal."
        )
    shape = next(iter(shapes.values()))
    if "w_in" in v:
        v["w_in"] = _broadcast(name, "w_in", v["w_in"], shape)
    return getattr(nir, kind)(**v)


def _shape(name: str, value: np.ndarray) -> np.ndarray:
    value = np.atleast_1d(value)
    if (value < 1).any() or math.prod(value.tolist()) > MAX_ELEMENTS:
        raise MalformedFile(
            f"The shape of '{name}' is {value.tolist()}.", "Axes are positive and not huge.", "Correct it."
        )
    return value


def _broadcast(name: str, key: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """One value for all or one each; any other shape would broadcast by accident."""
    if value.size != 1 and value.shape != shape:
        raise MalformedFile(
            f"'{key}' of node '{name}' has shape {value.shape}.",
            f"{shape} or one value is needed.",
            "Correct it.",
        )
    if value.shape == shape:
        return value
    return np.full(shape, value.reshape(()), value.dtype)


def _linear(name: str, kind: str, v: dict[str, Any]) -> Any:
    weight = v["weight"]
    if weight.ndim < 2 or not weight.size:
        raise MalformedFile(
            f"The weight of '{name}' has shape {weight.shape}.", "[out, in] is needed.", "Correct it."
        )
    if kind == "Linear":
        return nir.Linear(weight)
    return _with_bias(name, nir.Affine(weight, v["bias"]))


def _with_bias(name: str, node: Any) -> Any:
    """A node with one bias per output; old files hold False for none."""
    if node.bias.ndim == 0:
        node.bias = full_bias(node)
    shape = node.weight.shape[:-1] if isinstance(node, nir.Affine) else node.weight.shape[:1]
    if node.bias.shape != shape:
        raise MalformedFile(
            f"'bias' of node '{name}' has shape {node.bias.shape}.", f"{shape} is needed.", "Correct it."
        )
    return node


def _conv(name: str, kind: str, v: dict[str, Any]) -> Any:
    axes = int(kind[4])
    weight, groups = v["weight"], v["groups"]
    if weight.ndim != axes + 2 or not weight.size:
        raise MalformedFile(
            f"The weight of '{name}' has shape {weight.shape}.", f"{axes + 2} axes needed.", "Correct it."
        )
    for key in ("stride", "padding", "dilation"):
        if not isinstance(v[key], str):
            v[key] = _per_axis(name, key, v[key], axes)
    if groups.size != 1 or groups.item() < 1 or weight.shape[0] % groups.item():
        raise MalformedFile(
            f"Convolution '{name}' has groups {groups}.", "They divide its channels.", "Correct it."
        )
    v["groups"] = int(groups.item())
    given = v.pop("input_shape", np.array([]))
    if axes == 1:
        v |= {k: int(v[k][0]) for k in ("stride", "padding", "dilation") if not isinstance(v[k], str)}
    node = _with_bias(name, getattr(nir, kind)(input_shape=None, **v))
    if given.size:
        spatial = tuple(int(d) for d in _shape(name, _per_axis(name, "input_shape", given, axes)))
        shape = (weight.shape[1] * v["groups"], *spatial)
        node.input_shape = given if axes == 2 else spatial[0]
        set_window_types(name, node, shape)
    return node


def _flatten(name: str, v: dict[str, Any]) -> Any:
    start, end = (int(v[k].item()) if v[k].size == 1 else 99 for k in ("start_dim", "end_dim"))
    given = v.get("input_type", np.array([]))
    node = nir.Flatten(None, start, end)  # type: ignore[arg-type]
    if given.size:
        set_window_types(name, node, tuple(int(d) for d in _shape(name, given)))
    return node


def _per_axis(name: str, key: str, value: np.ndarray, axes: int) -> np.ndarray:
    if value.size not in (1, axes):
        raise MalformedFile(
            f"'{key}' of node '{name}' has {value.size} values.", f"{axes} are needed.", "Correct it."
        )
    return np.full(axes, value.reshape(())) if value.size == 1 else value.reshape(axes)
