"""Read HDF5 network files (.net) of lava-dl, which may be damaged or hostile, as integer layers.

What comes out is what netx of lava-dl 0.6.0 executes in fixed point. What netx itself would refuse, ignore or
change is an error here; two things are done as netx does and warned of: weights of both signs are clipped to
-256..254, delays to 62. For the format see `rsc.export.netx`.
"""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from rsc.errors import MalformedFile
from rsc.export import netx_format
from rsc.export.netx_file import MAX_NEURONS, Group, malformed, read_groups, unsupported
from rsc.layered import (
    BIAS_MANT_MAX,
    DELAY_MAX,
    STATE_MAX,
    VTH_MAX,
    Connection,
    Layer,
    LayeredProgram,
    Source,
)

SLAYER_SCALE = 64.0  # slayer's integer weights per unit of weight, unless told otherwise when it is set up
DENSE, CONV, FLATTEN, INPUT = "dense", "conv", "flatten", "input"


def read_netx(
    path: str | Path,
    *,
    input_shape: tuple[int, ...] | None = None,
    payload_max: int | None = None,
    skip_input: bool = False,
    trust: bool = False,
) -> LayeredProgram:
    """The layers in a network file; v starts from rest in each.

    Args:
        path: file written by slayer's `export_hdf5` or by `write_netx`.
        input_shape: [C, H, W], where the file begins with a convolution and does not say.
        payload_max: largest magnitude of a graded input, as netx is told by its `input_message_bits`; 0 for
            spikes; None for what `write_netx` noted, else spikes.
        skip_input: leave out neurons of the input block, which turn images into spikes, and hear spikes
            instead (netx: `skip_layers=1`).
        trust: lift the limits on size, memory and time.

    Returns:
        Layers "layer1", "layer2", ... behind the input "input" (their indices in the file), or named as they
        were when `write_netx` wrote them. A last layer that is not meant to fire is a readout: its v, or, of
        a block without neuron, what it gains in a step.

    Raises:
        InputRefused (MalformedFile, UnsupportedNode): the file is not safe, not such a file, or netx would
            not run it as it stands.
        TargetFault: the reading process could not be started.
    """
    tree = read_groups(path, trust)
    groups = tree.get("layer")
    if not isinstance(groups, dict) or sorted(groups) != sorted(str(i) for i in range(len(groups))):
        raise MalformedFile(
            f"{path} is not a network file of lava-dl.",
            "It has no group 'layer' with the groups 0, 1, 2, ... in it.",
            "Give a file written by export_hdf5.",
        )
    about = _about(tree.get("rsc"))
    chain = _Chain(input_shape, payload_max, skip_input, about)
    for i in range(len(groups)):
        chain.add(Group(groups[str(i)], f"layer/{i}"), i)
    return chain.program(tree.get("rsc"))


class _Chain:
    """The layers read so far."""

    def __init__(
        self,
        input_shape: tuple[int, ...] | None,
        payload_max: int | None,
        skip_input: bool,
        about: netx_format.About | None,
    ) -> None:
        self.about, self.skip_input, self.layers = about, skip_input, []
        self.shape = input_shape
        noted = about.input_maximum if about and about.graded else 0
        self.payload_max = noted if payload_max is None else payload_max
        self.flat = False  # a flatten block came last
        self.image = False  # the last block is a convolution
        self.neurons = 0
        self.layers: list[Layer]

    def add(self, group: Group, index: int) -> None:
        """The next block of the file."""
        kind = group.text("type")
        if kind == INPUT:
            self._input(group, index)
        elif kind == FLATTEN:
            if self.layers and not self.image:
                raise unsupported(group.path, "netx flattens nothing but the output of a convolution")
            self.flat = True
        elif kind in (DENSE, CONV):
            layer = self._dense(group) if kind == DENSE else self._conv(group)
            self._count(layer.shape, group)
            self.layers.append(dataclasses.replace(layer, name=self._noted(layer, f"layer{index}").name))
            self.image, self.flat, self.shape = kind == CONV, False, layer.shape
        else:
            raise unsupported(group.path, f"blocks of type '{kind[:40]}' are not read")

    def _input(self, group: Group, index: int) -> None:
        if index:
            raise malformed(group.path, "an input that is not the first block")
        if "neuron" in group and not self.skip_input:
            raise unsupported(
                group.path, "neurons that take images through their bias are not read; see skip_input"
            )
        self.shape = group.shape()
        self._count(self.shape, group)

    def _count(self, shape: tuple[int, ...], group: Group) -> None:
        self.neurons += int(np.prod(shape, dtype=object))
        if self.neurons > MAX_NEURONS:
            raise malformed(group.path, f"with it there are more than {MAX_NEURONS} neurons")

    def _source(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """Fields of a connection from the block before."""
        if self.layers:
            return {"source": self.layers[-1].name, "source_shape": shape}
        name = self.about.input if self.about else "input"
        return {"source": name, "source_shape": shape, "graded": self.payload_max > 0}

    def _noted(self, layer: Layer, name: str) -> netx_format.AboutLayer:
        """What `write_netx` noted of the next layer, else what holds for slayer's files."""
        if self.about is None:
            return netx_format.AboutLayer(name, SLAYER_SCALE, layer.readout, 0.0)
        if len(self.layers) == len(self.about.layers):
            raise malformed("rsc", "it speaks of fewer layers than there are")
        return self.about.layers[len(self.layers)]

    def _dense(self, group: Group) -> Layer:
        if isinstance(group.fields.get("weight"), dict):
            raise unsupported(f"{group.path}/weight", "complex weights are not read")
        shape = group.shape()
        outputs = int(np.prod(shape, dtype=object))
        weight = group.whole("weight", -STATE_MAX, STATE_MAX)
        if weight.size % outputs or weight.ndim > 2 or (weight.ndim == 2 and len(weight) != outputs):
            raise malformed(f"{group.path}/weight", f"{weight.shape} does not fit {outputs} neurons")
        weight = self._kept(weight.reshape(outputs, -1), group)
        inputs = weight.shape[1]
        if self.image and not self.flat:
            raise unsupported(group.path, "a dense block hears an image without a flatten block between")
        before = self.shape or (inputs,)
        if int(np.prod(before, dtype=object)) != inputs:
            raise malformed(f"{group.path}/weight", f"{inputs} inputs do not fit {before}")
        if not self.layers and not self.flat and before[1:] == (1, 1) and self.about is None:
            before = before[:1]
        for name, size in (("inFeatures", inputs), ("outFeatures", outputs)):
            if name in group:
                group.number(name, size, size)
        delay = self._delay(group, weight.shape)
        exponent = 0
        if (weight % 2).any() and np.abs(weight).max() <= netx_format.WEIGHT_MAX // 2:
            weight, exponent = 2 * weight, -1  # onto the grid of even numbers
        connection = Connection(
            kind=DENSE,
            weight=weight.astype(np.int32),
            weight_exp=exponent,
            delay=delay,
            **self._source(before),
        )
        return self._neurons(group, connection, (outputs,) if self.about is None else shape)

    def _kept(self, weight: np.ndarray, group: Group) -> np.ndarray:
        """The weights as netx uses them."""
        if weight.min() < 0 < weight.max() and (
            weight.min() < netx_format.WEIGHT_MIN or weight.max() > netx_format.WEIGHT_MAX
        ):
            warnings.warn(
                f"'{group.path}/weight' holds {weight.min()}..{weight.max()}; netx clips to "
                f"{netx_format.WEIGHT_MIN}..{netx_format.WEIGHT_MAX}, and so does this.",
                stacklevel=5,
            )
            weight = weight.clip(netx_format.WEIGHT_MIN, netx_format.WEIGHT_MAX)
        change = netx_format.change_of_matrix(weight)
        if change:
            raise unsupported(group.path, change.rstrip("."))
        return weight

    def _delay(self, group: Group, shape: tuple[int, ...]) -> np.ndarray:
        """k of the synapses, [] if all have one, else [out, in]; one per output goes first."""
        if "delay" not in group:
            return np.zeros((), np.int32)
        delay = group.whole("delay", 0, STATE_MAX)
        if delay.max() > DELAY_MAX:
            warnings.warn(
                f"'{group.path}/delay' holds {delay.max()}; netx clips to {DELAY_MAX}, and so does this.",
                stacklevel=5,
            )
            delay = delay.clip(0, DELAY_MAX)
        delay = delay.astype(np.int32)
        if delay.ndim == 1 and len(delay) == shape[0]:
            delay = delay[:, None]
        elif delay.ndim and delay.shape not in ((shape[1],), shape):
            raise malformed(f"{group.path}/delay", f"{delay.shape} does not fit weights {shape}")
        if (delay == delay.flat[0]).all():
            return np.asarray(delay.flat[0], np.int32)
        return np.array(np.broadcast_to(delay, shape))

    def _conv(self, group: Group) -> Layer:
        before = self.shape
        if self.flat or (self.layers and not self.image):
            raise unsupported(group.path, "a convolution hears a flat layer")
        if before is None or len(before) != 3:
            raise unsupported(group.path, "the shape (C, H, W) of its input is not known; give input_shape")
        weight = group.whole("weight", -STATE_MAX, STATE_MAX)
        if weight.ndim not in (4, 5) or weight.shape[4:] not in ((), (1,)):
            raise malformed(f"{group.path}/weight", "it is not [C_out, C_in/groups, Kh, Kw] or [..., 1]")
        weight = weight.reshape(weight.shape[:4])
        sizes: list[int] = list(weight.shape)
        outputs, per_group, *kernel = sizes
        groups = group.number("groups", 1, netx_format.CONV_FIELD_MAX)
        stride, padding, dilation = (
            group.pair("stride", 1),
            group.pair("padding", 0),
            group.pair("dilation", 1),
        )
        if max(kernel) > netx_format.CONV_FIELD_MAX or outputs % groups or per_group * groups != before[0]:
            raise malformed(f"{group.path}/weight", f"{weight.shape} does not fit {before}")
        if "delay" in group and group.whole("delay", 0, STATE_MAX).any():
            raise unsupported(f"{group.path}/delay", "netx does not delay convolutions, slayer does")
        expected = {"inChannels": [before[0]], "outChannels": [outputs], "kernelSize": kernel}
        for name, sizes in expected.items():
            if name in group and group.whole(name, 1, MAX_NEURONS).ravel().tolist() != sizes:
                raise malformed(f"{group.path}/{name}", f"it is not {sizes}")
        size = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(before[1:], padding, dilation, kernel, stride, strict=True)
        ]
        shape = (outputs, *size)
        if group.shape() != shape:
            raise malformed(f"{group.path}/shape", f"the convolution gives {shape}")
        connection = Connection(
            kind=CONV,
            weight=weight.astype(np.int32),
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            **self._source(before),
        )
        return self._neurons(group, connection, shape)

    def _neurons(self, group: Group, connection: Connection, shape: tuple[int, ...]) -> Layer:
        """The layer, without its name."""
        if "neuron" not in group:
            return self._accumulator(group, connection, shape)
        neuron = group.group("neuron")
        kind = neuron.text("type")
        if kind not in ("CUBA", "LOIHI"):
            raise unsupported(f"{neuron.path}/type", f"neurons of type '{kind[:40]}' are not read")
        neuron.unused("refDelay", 1, 0)
        for name in ("gradedSpike", "messageBits", "wgtExp", "weight_exp"):
            neuron.unused(name, 0)
        image = connection.kind == CONV
        # slayer's Affine has 2^18 - 1, which v cannot reach.
        vth = np.minimum(_parameter(neuron, "vThMant", 0, (1 << 18) - 1, shape, image), VTH_MAX)
        layer = Layer(
            name="",
            shape=shape,
            connections=(connection,),
            du=_parameter(neuron, "iDecay", 1, 4096, shape, image) - 1,
            dv=_parameter(neuron, "vDecay", 0, 4096, shape, image),
            vth=vth if vth.ndim else int(vth),
            bias_mant=_bias(group, shape, image),
            bias_exp=netx_format.BIAS_EXP,
            readout="state" if np.min(vth) == VTH_MAX else "",
        )
        noted = self._noted(layer, "")
        return dataclasses.replace(layer, scale=noted.scale, offset=noted.offset, readout=noted.readout)

    def _accumulator(self, group: Group, connection: Connection, shape: tuple[int, ...]) -> Layer:
        """A block without neuron: netx gives it a u that never decays and v = u, which cannot fire.

        Here v gathers what u would; the two agree as long as they stay inside 24 bits.
        """
        if connection.kind == CONV:
            raise malformed(f"{group.path}/neuron", "it is missing")
        if "bias" in group and group.whole("bias", -STATE_MAX, STATE_MAX).any():
            raise unsupported(f"{group.path}/bias", "without neurons there is nothing that could add it up")
        zero = np.zeros(shape, np.int32)
        layer = Layer("", shape, (connection,), 4095, 0, VTH_MAX, zero, netx_format.BIAS_EXP, readout="sum")
        noted = self._noted(layer, "")
        return dataclasses.replace(layer, scale=noted.scale, offset=noted.offset)

    def program(self, rsc: Any) -> LayeredProgram:
        """The program, once all blocks are added."""
        if not self.layers:
            raise malformed("layer", "there is no block with neurons")
        about, first = self.about, self.layers[0].connections[0]
        if about is None:
            scale, maximum, output, digest = 1.0, max(1, self.payload_max), "output", ""
        else:
            if len(about.layers) != len(self.layers):
                raise malformed("rsc", "it speaks of more layers than there are")
            scale, maximum = about.input_scale, about.input_maximum
            maximum = maximum if self.payload_max == 0 else self.payload_max
            output, digest = about.output, about.source_digest
        layers = [_with_offset(layer, i, rsc) for i, layer in enumerate(self.layers)]
        return LayeredProgram(
            arithmetic="integer",
            layers=tuple(layers),
            inputs=(Source(first.source, first.source_shape, scale, maximum),),
            outputs=((output, (layers[-1].name,)),),
            source_digest=digest,
        )


def _parameter(
    neuron: Group, name: str, low: int, high: int, shape: tuple[int, ...], image: bool
) -> int | np.ndarray:
    """One number, or one for each neuron, int32 in `shape`; in an image one for each channel."""
    values = neuron.whole(name, low, high)
    if values.size == 1 or (values == values.flat[0]).all():
        return int(values.flat[0])
    expected = shape[0] if image else int(np.prod(shape))
    if values.ndim != 1 or len(values) != expected:
        raise malformed(f"{neuron.path}/{name}", f"{values.shape} does not fit neurons {shape}")
    return _spread(values, shape, image)


def _bias(group: Group, shape: tuple[int, ...], image: bool) -> np.ndarray:
    """Mantissas, int32 in `shape`; in an image from one for each channel or from (W, H, C)."""
    if "bias" not in group:
        return np.zeros(shape, np.int32)
    bias = group.whole("bias", -BIAS_MANT_MAX, BIAS_MANT_MAX)
    if image and bias.shape == shape[::-1]:
        return np.ascontiguousarray(bias.transpose(2, 1, 0)).astype(np.int32)
    expected = (shape[0],) if image else (int(np.prod(shape)),)
    if bias.shape != expected and (image or bias.size != 1):
        raise malformed(f"{group.path}/bias", f"{bias.shape} does not fit neurons {shape}")
    return _spread(bias, shape, image)


def _spread(values: np.ndarray, shape: tuple[int, ...], image: bool) -> np.ndarray:
    if image:
        values = values.reshape(-1, 1, 1)
    else:
        values = values.reshape(shape if values.size > 1 else ())
    return np.array(np.broadcast_to(values, shape), np.int32)


def _with_offset(layer: Layer, index: int, rsc: Any) -> Layer:
    """The layer with an offset for each neuron, where the file has one."""
    offsets = rsc.get("offset") if isinstance(rsc, dict) else None
    if not isinstance(offsets, dict) or str(index) not in offsets:
        return layer
    offset = offsets[str(index)]
    if not isinstance(offset, np.ndarray) or offset.dtype.kind != "f" or offset.shape != layer.shape:
        raise malformed(f"rsc/offset/{index}", f"it is not one number for each of {layer.shape} neurons")
    if not np.isfinite(offset).all():
        raise malformed(f"rsc/offset/{index}", "it is not finite")
    return dataclasses.replace(layer, offset=offset.astype(np.float64))


def _about(rsc: Any) -> netx_format.About | None:
    """What `write_netx` noted, or None."""
    if not isinstance(rsc, dict) or netx_format.ABOUT not in rsc:
        return None
    try:
        about = msgspec.json.decode(rsc[netx_format.ABOUT], type=netx_format.About)
    except (TypeError, ValueError, RecursionError) as error:
        raise malformed(f"rsc/{netx_format.ABOUT}", str(error)) from error
    names = [about.input, *(layer.name for layer in about.layers)]
    numbers = [about.input_scale, *(layer.scale for layer in about.layers)]
    if "" in names or len(set(names)) < len(names):
        raise malformed(f"rsc/{netx_format.ABOUT}", "names are missing or not unique")
    if not all(0 < number < 1e300 for number in numbers) or not 0 <= about.input_maximum < 1 << 31:
        raise malformed(f"rsc/{netx_format.ABOUT}", "a scale or the largest payload is not possible")
    return about
