"""A program as layers of synapses and Loihi-type neurons: what `loihi` and `lava` execute.

Pooling, gains, leaks and reset offsets of the NIR graph are already folded; each layer is

    a_t = sum over connections of W * pool(source_t)      (source: spikes, or graded input)
    u_t = decay(u_{t-1}, du) + a_t,   v_t = decay(v_{t-1}, dv) + u_t + bias,   fires at v_t > vth

in integers (Lava's fixed-point LIF, bit-exact) or in floating point (Lava's floating LIF).
The value is frozen, saved without pickle and has a digest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from pathlib import Path
from typing import Any, Literal
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import msgspec
import numpy as np

from rsc.errors import MalformedFile

VTH_MAX = 131071  # 17-bit mantissa
BIAS_MANT_MAX = 4095  # 12 bits and sign
STATE_MAX = (1 << 23) - 1  # 24-bit signed u and v


@dataclasses.dataclass(frozen=True, eq=False)
class Connection:
    """Weighted synapses from one source into a layer.

    Fields:
        source: name of the feeding layer, or of the program's Input node.
        kind: "dense", weight [out, in] on the C-order flattened source [C, H, W]; or
            "conv", weight [C_out, C_in/groups, Kh, Kw], cross-correlation as in torch.
        weight: int32 on the Loihi grid (even, -256..254) or float64.
        weight_exp: the integer sum is shifted left by it (dense only; conv folds it).
        source_shape: shape of the source, [C, H, W] or [n].
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


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A population of identical-rule neurons and the synapses that feed it.

    Fields:
        name: the NIR neuron node, or the Affine/Linear node for a readout without neuron.
        shape: [C, H, W] or [n].
        du, dv: decays; integers 0..4095 (du) and 0..4096 (dv) of 4096ths, or floats in [0, 1].
        vth: threshold; integer mantissa (compared as vth << 6) or float.
        bias_mant, bias_exp: the bias is bias_mant << bias_exp, in the units of v (64ths of weight units);
            bias_mant has the layer's shape. In floating point bias_exp is 0 and bias_mant is the bias.
        scale: integer weight units per unit of the float program, so v_float = v_int / (64 * scale).
        readout: the layer is an accumulator whose v is read; it is not meant to fire.
    """

    name: str
    shape: tuple[int, ...]
    connections: tuple[Connection, ...]
    du: float
    dv: float
    vth: float
    bias_mant: np.ndarray
    bias_exp: int = 0
    scale: float = 1.0
    readout: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class LayeredProgram:
    """Layers in the order of the data flow, every source before its users.

    Fields:
        arithmetic: "integer" or "float".
        input_name, input_shape: of the NIR Input node.
        input_scale: integer payload = round(input_scale * frame), clipped to +-input_max; unused in float.
        input_max: largest payload magnitude.
        output: name of the layer whose activity is the program's output.
        source_digest: digest of the Program this was lowered from.
    """

    arithmetic: Literal["integer", "float"]
    layers: tuple[Layer, ...]
    input_name: str
    input_shape: tuple[int, ...]
    output: str
    input_scale: float = 1.0
    input_max: int = 0
    source_digest: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 of the saved form."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def depth(self) -> dict[str, int]:
        """Number of connections in series from the input to each layer (the input has 0).

        All paths into a layer must have the same length for Lava's pipeline; the lowering sees to it.
        """
        depth = {self.input_name: 0}
        for layer in self.layers:
            depth[layer.name] = 1 + max(depth[c.source] for c in layer.connections)
        return depth

    def payload(self, frames: np.ndarray) -> np.ndarray:
        """Input values as the target sees them: int32 payloads, or float64 frames unchanged."""
        if self.arithmetic == "float":
            return np.asarray(frames, np.float64)
        scaled = np.rint(np.asarray(frames, np.float64) * self.input_scale)
        return np.clip(scaled, -self.input_max, self.input_max).astype(np.int32)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Named arrays for an .npz file; key "header" is the JSON of everything else, as uint8."""
        arrays: dict[str, np.ndarray] = {}
        header = dataclasses.asdict(self)
        for i, layer in enumerate(header["layers"]):
            arrays[f"{i}.bias_mant"] = layer.pop("bias_mant")
            for j, connection in enumerate(layer["connections"]):
                arrays[f"{i}.{j}.weight"] = connection.pop("weight")
        arrays["header"] = np.frombuffer(msgspec.json.encode(header, order="sorted"), np.uint8)
        return arrays

    def to_bytes(self) -> bytes:
        """The saved form: an uncompressed .npz with fixed order and dates (same value, same bytes)."""
        buffer = io.BytesIO()
        with ZipFile(buffer, "w", ZIP_STORED) as archive:
            for name, array in sorted(self.to_arrays().items()):
                body = io.BytesIO()
                np.lib.format.write_array(body, np.ascontiguousarray(array), allow_pickle=False)
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
                    layer["bias_mant"] = data[f"{i}.bias_mant"]
                    for j, connection in enumerate(layer["connections"]):
                        connection["weight"] = data[f"{i}.{j}.weight"]
                    layer["connections"] = tuple(Connection(**_tuples(c)) for c in layer["connections"])
                header["layers"] = tuple(Layer(**_tuples(layer)) for layer in header["layers"])
                return cls(**_tuples(header))
        except (OSError, KeyError, TypeError, ValueError, EOFError, BadZipFile, msgspec.DecodeError) as error:
            raise MalformedFile(
                f"{path} is not a lowered program.", str(error), "Export it again."
            ) from error


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """Lists from JSON back to (nested) tuples."""

    def convert(value: Any) -> Any:
        return tuple(convert(v) for v in value) if isinstance(value, list) else value

    return {k: convert(v) for k, v in fields.items()}
