"""A program as one ONNX model (opset 18): the whole network, the whole sequence, the encoder inside.

T and B are dynamic. Inputs and outputs, by the form that is asked for (`OnnxForm`):

| value | shape | meaning |
|---|---|---|
| frames.INPUT | [T, B, ...] | ready-made frames, feed "frames" |
| image, noise, steps, sigma, runs | see `rsc.export.onnx_encoder` | feed "noise" and "graph" |
| state.KIND.NODE, next.KIND.NODE | [B, ...] | states before (optional) and after, of `stateful` models |
| logits | [B, K] | the readout of the first Output; with a vote, the mean over the runs |
| votes, prediction | [B, K], [B] | with a vote: runs that chose each class, and the class chosen most |
| counts.NODE | [B, ...] | spikes of every site over all steps (and runs) |
| saturated | [] | with counts, of integers: how often a payload or v was clipped |
| outputs.NODE, spikes.NODE, states.NODE.v (or .i, .u) | [T, B, ...] | every step, where asked for |

The metadata properties `rsc.program` (JSON: semantics, encoder, bounds, labels, quantiser), `rsc.digest` (of
the program), `rsc.form` and `rsc.values` (frames, spikes and outputs by the names of values inside) say what
the model is; its opset and the version of this package stand where ONNX has a place for them.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
from onnx import ModelProto, helper

from rsc.errors import UsageError
from rsc.export.loihi import lower
from rsc.export.onnx_encoder import Encoded, encode
from rsc.export.onnx_integer import IntegerNetwork
from rsc.export.onnx_network import Network
from rsc.export.onnx_scope import Scope
from rsc.export.onnx_series import Extent, Series, full
from rsc.export.onnx_state import Memory
from rsc.program import Program
from rsc.shapes import Shape

OPSET, IR_VERSION = 18, 9
Arithmetic = Literal["float32", "float64", "float16", "bfloat16", "integer"]
Feed = Literal["frames", "noise", "graph"]


@dataclasses.dataclass(frozen=True)
class OnnxForm:
    """What kind of model is made of a program.

    Fields:
        arithmetic: of the network. float16 and bfloat16 hold and multiply weights so; their neurons compute
            in float32. integer is the Loihi form, as target `loihi` runs it.
        feed: "frames" takes ready-made frames; "noise" image and noise; "graph" the image, and draws noise.
        votes: K, number of runs for each image whose majority decides; None for one run without a vote.
        counts: give spike counts.
        outputs: give the values of the Output nodes at every step.
        spikes, states: nodes whose spikes, or states, are given at every step.
        stateful: states can be fed and are given; with feed "frames" alone.
    """

    arithmetic: Arithmetic = "float32"
    feed: Feed = "frames"
    votes: int | None = None
    counts: bool = False
    outputs: bool = False
    spikes: frozenset[str] = frozenset()
    states: frozenset[str] = frozenset()
    stateful: bool = False

    def __post_init__(self) -> None:
        if self.votes is not None and (self.votes < 1 or self.feed == "frames" or self.stateful):
            raise UsageError(
                f"A vote of {self.votes} runs over {self.feed}.",
                "A model votes over at least one run, each with its own noise.",
                "Use feed 'noise' or 'graph', and at least one run.",
            )
        if self.stateful and self.feed != "frames":
            raise UsageError(
                f"A model with states was asked to take {self.feed}.",
                "What goes on from a state is a stream of frames.",
                "Use feed 'frames'.",
            )

    @property
    def real(self) -> str:
        """Type of states and element-wise work."""
        return "float64" if self.arithmetic in ("float64", "integer") else "float32"


class Built(Protocol):
    """What a network of either kind leaves behind."""

    shapes: dict[str, Shape]
    series: dict[str, Series]
    rasters: dict[str, str]
    recorded: dict[str, str]
    readouts: frozenset[str]
    saturations: list[str]

    def build(self) -> None:
        """Add all nodes."""
        ...


def to_onnx(program: Program, form: OnnxForm | None = None) -> ModelProto:
    """The model of a program that `rsc.hw_targets.get_target("onnxruntime").check` accepts.

    Raises:
        UsageError: the program has no encoder and the form needs one.
        UnsupportedNode: it has no Loihi form and that is asked for.
    """
    form = form or OnnxForm()
    if form.feed != "frames" and program.encoder is None:
        raise UsageError(
            "This program has no encoder.", "It can only be fed ready-made frames.", "Use feed 'frames'."
        )
    s = Scope(form.real)
    shapes = _input_shapes(program)
    fed = _fed(s, program, form, shapes)
    memory = Memory(form.stateful)
    network = _network(s, program, form, fed, memory)
    network.build()
    inside = _give_outputs(s, program, form, fed, network)
    graph = s.graph("rsc")
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="rsc-snn",
        producer_version=importlib.metadata.version("rsc-snn"),
    )
    helper.set_model_props(model, _properties(program, form) | {"rsc.values": _json(inside)})
    return model


@dataclasses.dataclass(frozen=True)
class _Fed:
    """Frames by Input node, the extent of the run, and the number of runs ("" without a vote)."""

    frames: Mapping[str, Series]
    extent: Extent
    runs: str = ""
    image_batch: str = ""


def _fed(s: Scope, program: Program, form: OnnxForm, shapes: Mapping[str, Shape]) -> _Fed:
    if form.feed == "frames":
        names = {n: s.declare(f"frames.{n}", "float32", ("T", "B", *shapes[n]), "input") for n in shapes}
        first = next(iter(names.values()))
        extent = Extent(s.op("Shape", first, start=0, end=1), s.op("Shape", first, start=1, end=2))
        cast = functools.partial(s.cast, dtype="float64")
        real = {n: cast(x) if s.real == "float64" else x for n, x in names.items()}
        return _Fed({n: Series(shapes[n], False, x) for n, x in real.items()}, extent)
    name = program.inputs[0]
    assert program.encoder is not None
    made: Encoded = encode(s, program.encoder, shapes[name], form.feed == "noise", form.votes)
    return _Fed({name: made.frames}, made.extent, made.runs, s.op("Shape", "image", start=0, end=1))


def _network(s: Scope, program: Program, form: OnnxForm, fed: _Fed, memory: Memory) -> Built:
    if form.arithmetic == "integer":
        layered = lower(program, "integer")
        return IntegerNetwork(s, layered, fed.extent, fed.frames, memory, form.states)
    weights = form.arithmetic
    return Network(s, program, weights, fed.extent, fed.frames, memory, form.states)


def _give_outputs(s: Scope, program: Program, form: OnnxForm, fed: _Fed, network: Built) -> dict[str, str]:
    """Declare the outputs; names of values in between by which the model can be held against another."""
    first = program.outputs[0]
    values = {name: full(s, network.series[name], fed.extent) for name in program.outputs}
    flat, shape = values[first], network.series[first].shape
    if len(shape) != 1:
        flat = s.op("Reshape", flat, s.ints(0, 0, -1))
    classes = int(np.prod(shape))
    logits = _readout(s, flat, program.semantics.readout, "" if fed.runs else "logits")
    if fed.runs:
        _vote(s, logits, classes, fed)
    s.declare("logits", s.real, ("B", classes), "output")
    if form.counts:
        _give_counts(s, form, fed, network)
    lead = ("T", "KB" if fed.runs else "B")
    if form.outputs:
        for name, value in values.items():
            s.op("Identity", value, name=f"outputs.{name}")
            s.declare(f"outputs.{name}", s.real, (*lead, *network.series[name].shape), "output")
    for name in sorted(form.spikes & set(network.rasters)):
        over = network.rasters[name]
        s.op("Cast", over, name=f"spikes.{name}", to=9)
        s.declare(f"spikes.{name}", "bool", (*lead, *network.series[name].shape), "output")
    for key, value in sorted(network.recorded.items()):
        kind = "int64" if form.arithmetic == "integer" else s.real
        s.op("Identity", value, name=f"states.{key}")
        s.declare(f"states.{key}", kind, (*lead, *network.shapes[key.rsplit(".", 1)[0]]), "output")
    return (
        {f"frames.{name}": series.long for name, series in fed.frames.items()}
        | {f"spikes.{name}": value for name, value in network.rasters.items()}
        | {f"outputs.{name}": value for name, value in values.items()}
    )


def _readout(s: Scope, flat: str, rule: str, name: str) -> str:
    """Logits [B, K] of an output [T, B, K]."""
    if rule == "last":
        return s.op("Gather", flat, s.constant(-1, "int64"), name=name)
    return s.op("ReduceMean" if rule == "mean" else "ReduceSum", flat, s.ints(0), name=name, keepdims=0)


def _vote(s: Scope, logits: str, classes: int, fed: _Fed) -> None:
    """Give votes, prediction and mean logits of logits [K B, classes]."""
    shape = s.op("Concat", fed.runs, fed.image_batch, s.ints(classes), axis=0)
    each = s.op("Reshape", logits, shape)
    chosen = s.op("ArgMax", each, axis=2, keepdims=0)
    depth, ends = s.constant(classes, "int64"), s.ints(0, 1)
    s.op("ReduceSum", s.op("OneHot", chosen, depth, ends), s.ints(0), name="votes", keepdims=0)
    s.declare("votes", "int64", ("B", classes), "output")
    s.op("ArgMax", "votes", name="prediction", axis=1, keepdims=0)
    s.declare("prediction", "int64", ("B",), "output")
    s.op("ReduceMean", each, s.ints(0), name="logits", keepdims=0)


def _give_counts(s: Scope, form: OnnxForm, fed: _Fed, network: Built) -> None:
    """Spikes of every neuron, and values other than 0 of every input, summed over the steps and runs."""
    trains = {name: (network.rasters[name], network.series[name].shape) for name in network.rasters}
    for name in network.readouts:
        del trains[name]
    for name, series in fed.frames.items():
        active = s.op("Not", s.op("Equal", full(s, series, fed.extent), s.number(0.0)))
        trains[name] = active, series.shape
    for name, (spikes, shape) in sorted(trains.items()):
        total = s.op("ReduceSum", s.cast(spikes, "float32"), s.ints(0), keepdims=0)
        if fed.runs:
            size = s.op("Concat", fed.runs, fed.image_batch, *([s.ints(*shape)] if shape else []), axis=0)
            total = s.op("ReduceSum", s.op("Reshape", total, size), s.ints(0), keepdims=0)
        s.cast(total, "int64", name=f"counts.{name}")
        s.declare(f"counts.{name}", "int64", ("B", *shape), "output")
    if network.saturations:
        total = functools.reduce(functools.partial(s.op, "Add"), network.saturations)
        s.op("Identity", total, name="saturated")
        s.declare("saturated", "int64", (), "output")


def _input_shapes(program: Program) -> dict[str, Shape]:
    found = {}
    for name in program.inputs:
        node: Any = program.graph.nodes[name]
        found[name] = tuple(int(d) for d in np.atleast_1d(next(iter(node.input_type.values()))))
    return found


def _properties(program: Program, form: OnnxForm) -> dict[str, str]:
    return {
        "rsc.program": program.metadata_json().decode(),
        "rsc.digest": program.digest,
        "rsc.form": _json(_said(form)),
    }


def _said(form: OnnxForm) -> dict[str, object]:
    """The fields of a form that are not left as they are."""
    plain, given = OnnxForm(), dataclasses.asdict(form)
    return {k: v for k, v in given.items() if k in ("arithmetic", "feed") or v != getattr(plain, k)}


def _json(value: object) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()
