"""A program as layers of synapses and Loihi-type neurons: what `loihi` and `lava` execute.

Pooling, gains, leaks and reset offsets of the NIR graph are already folded; each layer is

    a_t = sum over connections of W * pool(source_{t-k})   (source: spikes, a graded input, or the constant 1)
    u_t = decay(u_{t-1}, du) + a_t,   v_t = decay(v_{t-1}, dv) + u_t + bias,   fires at v_t > vth

in integers (Lava's fixed-point LIF, bit-exact) or in floating point (Lava's floating LIF). k is the delay of
a synapse in steps of the program; what is not there yet at the first k steps is 0. The value is frozen,
saved without pickle and has a digest.

On Loihi every connection takes a step of its own, so a layer works `levels()` steps behind the input: step t
of the program is step t + level of the layer.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import math
import warnings
from pathlib import Path
from typing import Any, Literal
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import msgspec
import numpy as np

from rsc.errors import MalformedFile, UnsupportedNode

VTH_MAX = 131071  # 17-bit mantissa
BIAS_MANT_MAX = 4095  # 12 bits and sign
STATE_MAX = (1 << 23) - 1  # 24-bit signed u and v
DELAY_MAX = 62  # steps that a synapse can wait beyond the first
COARSE = 0.1  # share of the largest value by which rounding may change an input unremarked
CONSTANT = ""  # name of the source that is 1 at every step


@dataclasses.dataclass(frozen=True, eq=False)
class Connection:
    """Weighted synapses from one source into a layer.

    Fields:
        source: name of the feeding layer, or of one of the program's Input nodes, or `CONSTANT`.
        kind: "dense", weight [out, in] on the C-order flattened source [C, H, W]; or
            "conv", weight [C_out, C_in/groups, Kh, Kw], cross-correlation as in torch.
        weight: float64, or int32 on one of Loihi's grids: even numbers in -256..254, or where all have one
            sign every number in 0..255 or -255..0.
        weight_exp: the integer sum is shifted left by it (dense only; conv folds it).
        source_shape: shape of the source, [C, H, W] or [n]; (1,) of the constant.
        delay: k, steps of the program between a spike and its arrival, at least 0: an int32 array [] for
            all synapses, or [out, in] for each (dense only).
        pool: (kernel, stride), each (h, w), of a sum pooling between source and weight, or None.
        stride, padding, dilation, groups: of the convolution, (h, w) each.
        graded: the source carries integers (or real values in float arithmetic) instead of 0/1.
    """

    source: str
    kind: Literal["dense", "conv"]
    weight: np.ndarray
    source_shape: tuple[int, ...]
    weight_exp: int = 0
    pool: tuple[tuple[int, int], tuple[int, int]] | None = None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    graded: bool = False
    delay: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((), np.int32))


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A population of neurons and the synapses that feed it.

    Fields:
        name: the NIR neuron node, or the last node in front of the Output for a readout without neuron.
        shape: [C, H, W] or [n].
        du, dv: decays, a number for all or an array of the layer's shape; integers 0..4095 (du) and
            0..4096 (dv) of 4096ths (du counts from -1: 4095 forgets), or floats in [0, 1].
        vth: threshold, likewise; integer mantissa (compared as vth << 6) or float.
        bias_mant, bias_exp: the bias is bias_mant << bias_exp, in the units of v (64ths of weight units);
            bias_mant has the layer's shape. In floating point bias_exp is 0 and bias_mant is the bias.
        v_init: v before the first step, in the units of v; a number or an array of the layer's shape.
        scale: integer weight units per unit of the float program, so v_float = v_int / (64 * scale).
        offset: v of the program is v_float + offset; an array or a number (v_reset, as Loihi resets to 0).
        readout: "" fires; "sum": an accumulator without decay, the output is what it gains in a step;
            "state": a leaky integrator, the output is its v. The last two are not meant to fire.
    """

    name: str
    shape: tuple[int, ...]
    connections: tuple[Connection, ...]
    du: Any
    dv: Any
    vth: Any
    bias_mant: np.ndarray
    bias_exp: int = 0
    v_init: Any = 0
    scale: float = 1.0
    offset: Any = 0.0
    readout: Literal["", "sum", "state"] = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """An Input node.

    Fields:
        scale: integer payload = round(scale * frame), clipped to +-maximum; unused in float.
        maximum: largest payload magnitude.
    """

    name: str
    shape: tuple[int, ...]
    scale: float = 1.0
    maximum: int = 0

    def payload(self, frames: np.ndarray, arithmetic: str) -> np.ndarray:
        """Frames as the target sees them: int32 payloads, or float64 frames unchanged."""
        if arithmetic == "float":
            return np.asarray(frames, np.float64)
        return self.rounded(frames)[0].astype(np.int32)

    def clipped(self, frames: np.ndarray, arithmetic: str) -> int:
        """How many values of the frames exceed the largest payload."""
        return 0 if arithmetic == "float" else self.rounded(frames)[1]

    def rounded(self, frames: np.ndarray) -> tuple[np.ndarray, int]:
        """Payloads as whole numbers in floating point, and how many were clipped; `frames` may be returned.

        Frames in float32 stay so where the scale is a power of two, as every step is exact then.
        """
        exact = math.frexp(self.scale)[0] == 0.5 and np.asarray(frames).dtype == np.float32
        scaled = np.asarray(frames, np.float32 if exact else np.float64)
        scaled = scaled if self.scale == 1 else scaled * self.scale
        rounded = np.rint(scaled)
        if not np.array_equal(rounded, scaled):
            self._warn_of_coarse(rounded, scaled)
        least, most = rounded.min(initial=0), rounded.max(initial=0)
        if -self.maximum <= least and most <= self.maximum:
            return rounded, 0
        kept = np.clip(rounded, -self.maximum, self.maximum)
        return kept, int(np.count_nonzero(kept != rounded))

    def _warn_of_coarse(self, rounded: np.ndarray, scaled: np.ndarray) -> None:
        if np.abs(rounded - scaled).max() > COARSE * np.abs(scaled).max():
            warnings.warn(
                f"Frames of '{self.name}' are rounded to whole multiples of {1 / self.scale:g}, which "
                "changes them much. Calibrate the program (rsc export --to loihi --calibrate max).",
                stacklevel=4,
            )


@dataclasses.dataclass(frozen=True, eq=False)
class LayeredProgram:
    """Layers in an order in which synapses without delay lead forward only.

    Fields:
        arithmetic: "integer" or "float".
        inputs: the Input nodes, by name.
        outputs: (Output node, layers whose activities are added there), by name.
        source_digest: digest of the Program this was lowered from.
    """

    arithmetic: Literal["integer", "float"]
    layers: tuple[Layer, ...]
    inputs: tuple[Source, ...]
    outputs: tuple[tuple[str, tuple[str, ...]], ...]
    source_digest: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 of the saved form."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def by_name(self) -> dict[str, Layer]:
        """Name -> layer."""
        return {layer.name: layer for layer in self.layers}

    @property
    def sources(self) -> dict[str, Source]:
        """Name -> Input node."""
        return {source.name: source for source in self.inputs}

    def levels(self) -> dict[str, int]:
        """How many steps each layer and input works behind the input on Loihi, as few as possible.

        A synapse of delay k takes level(target) + k - level(source) steps there, at least one.

        Raises:
            UnsupportedNode: a loop takes fewer steps in the program than it has connections.
        """
        return dict(self._levels)

    @functools.cached_property
    def _levels(self) -> dict[str, int]:
        level = dict.fromkeys(self.sources, 0) | {layer.name: 1 for layer in self.layers}
        risen: str | None = None
        for _ in range(len(self.layers) + 1):
            risen = None
            for layer in self.layers:
                needed = [
                    level[c.source] + 1 - int(c.delay.min())
                    for c in layer.connections
                    if c.source != CONSTANT
                ]
                if max(needed, default=1) > level[layer.name]:
                    level[layer.name], risen = max(needed), layer.name
            if risen is None:
                return level
        raise UnsupportedNode(
            f"The loop through '{risen}' takes more steps on Loihi than in the program.",
            "Every connection takes a step there; in the program only the delayed edges of the loop do.",
            "Delay every population of the loop by one step (Semantics.delayed_edges, --delay).",
        )

    def waits(self, layer: Layer, connection: Connection) -> np.ndarray:
        """Steps that the synapses of a connection wait on Loihi beyond the first; [] or [out, in], int32.

        The constant waits for nothing: what it is not there for is not sent.
        """
        if connection.source == CONSTANT:
            return np.zeros((), np.int32)
        level = self._levels
        return (connection.delay + (level[layer.name] - level[connection.source] - 1)).astype(np.int32)

    def groups(self) -> tuple[tuple[Layer, ...], ...]:
        """Layers that hear one another and must be stepped together, and single ones, sources first."""
        names = [layer.name for layer in self.layers]
        index = {name: i for i, name in enumerate(names)}
        reach = np.eye(len(names), dtype=bool)
        for i, layer in enumerate(self.layers):
            for c in layer.connections:
                if c.source in index:
                    reach[index[c.source], i] = True
        for k in range(len(names)):
            reach |= reach[:, k : k + 1] & reach[k : k + 1]
        left, parts = list(range(len(names))), []
        while left:
            first = next(i for i in left if all(not reach[j, i] or reach[i, j] for j in left))
            part = [j for j in left if reach[first, j] and reach[j, first]]
            parts.append(tuple(self.layers[j] for j in part))
            left = [j for j in left if j not in part]
        return tuple(parts)

    def is_recurrent(self, group: tuple[Layer, ...]) -> bool:
        """Whether a group must be run step by step."""
        names = {layer.name for layer in group}
        return any(c.source in names for layer in group for c in layer.connections)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Named arrays for an .npz file; key "header" is the JSON of everything else, as uint8."""
        arrays: dict[str, np.ndarray] = {}
        header = dataclasses.asdict(self)
        for i, layer in enumerate(header["layers"]):
            arrays |= {f"{i}.{name}": np.asarray(layer.pop(name)) for name in _LAYER_ARRAYS}
            for j, connection in enumerate(layer["connections"]):
                arrays |= {f"{i}.{j}.{name}": np.asarray(connection.pop(name)) for name in _SYNAPSE_ARRAYS}
        arrays["header"] = np.frombuffer(msgspec.json.encode(header, order="sorted"), np.uint8)
        return arrays

    def to_bytes(self) -> bytes:
        """The saved form: an uncompressed .npz with fixed order and dates (same value, same bytes)."""
        buffer = io.BytesIO()
        with ZipFile(buffer, "w", ZIP_STORED) as archive:
            for name, array in sorted(self.to_arrays().items()):
                body = io.BytesIO()
                contiguous = array if array.ndim == 0 else np.ascontiguousarray(array)
                np.lib.format.write_array(body, contiguous, allow_pickle=False)
                archive.writestr(ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), body.getvalue())
        return buffer.getvalue()

    @classmethod
    def load(cls, path: str | Path) -> LayeredProgram:
        """Read what `to_bytes` made.

        Raises:
            MalformedFile: not such a file.
        """
        try:
            with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as data:
                header: dict[str, Any] = msgspec.json.decode(data["header"].tobytes())
                for i, layer in enumerate(header["layers"]):
                    layer |= {name: data[f"{i}.{name}"] for name in _LAYER_ARRAYS}
                    for j, connection in enumerate(layer["connections"]):
                        connection |= {name: data[f"{i}.{j}.{name}"] for name in _SYNAPSE_ARRAYS}
                    layer["connections"] = tuple(Connection(**_tuples(c)) for c in layer["connections"])
                header["layers"] = tuple(Layer(**_tuples(layer)) for layer in header["layers"])
                header["inputs"] = tuple(Source(**_tuples(source)) for source in header["inputs"])
                return cls(**_tuples(header))
        except (OSError, KeyError, TypeError, ValueError, EOFError, BadZipFile, msgspec.DecodeError) as error:
            raise MalformedFile(
                f"{path} is not a lowered program.", str(error), "Export it again."
            ) from error


_LAYER_ARRAYS = ("du", "dv", "vth", "bias_mant", "v_init", "offset")
_SYNAPSE_ARRAYS = ("weight", "delay")


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """Lists from JSON back to (nested) tuples."""

    def convert(value: Any) -> Any:
        return tuple(convert(v) for v in value) if isinstance(value, list) else value

    return {k: convert(v) for k, v in fields.items()}
