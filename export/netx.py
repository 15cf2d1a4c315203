"""Write integer layers as the HDF5 network files (.net) that lava-dl's slayer writes and its netx loads.

`layer/0` is the input, the others are blocks in their order; each has `type` and `shape` (C, H, W), and

    dense    weight float32 [out, in] on the C-order flattened (C, H, W), inFeatures, outFeatures, delay, bias
    conv     weight float32 [C_out, C_in/groups, Kh, Kw], a cross-correlation as in torch, kernelSize, stride,
             padding, dilation [h, w], groups, inChannels, outChannels, bias
    flatten  between an image and a dense block
    neuron/  type "CUBA", iDecay = du + 1, vDecay = dv, vThMant = vth, refDelay 1, gradedSpike False

bias counts 64ths of the units of v (bias_exp 6), as thresholds do; delay holds the steps that a synapse waits
beyond the first, [out] or [out, in]. Source: lava-dl 0.6.0, netx/hdf5.py, netx/blocks/process.py and
slayer/block/base.py. The group `rsc` holds what the format has no field for; netx does not look at it.
"""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any, NoReturn

import h5py
import msgspec
import numpy as np

from rsc.errors import UnsupportedNode
from rsc.export.netx_format import (
    ABOUT,
    BIAS_EXP,
    CONV_FIELD_MAX,
    WEIGHT_MAX,
    WEIGHT_MIN,
    About,
    AboutLayer,
    change_of_matrix,
)
from rsc.files import write_atomic
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
from rsc.pooling import unpooled_kernel, unpooled_matrix


def write_netx(layered: LayeredProgram, path: str | Path) -> None:
    """Write a chain of integer layers; `rsc.export.netx_reader.read_netx` reads it back.

    netx must be told what the file cannot say: `input_message_bits` where the input is graded, and, for
    layers with biases, `reset_interval=steps, reset_offset=1`, which starts every layer when the first input
    reaches it. The layer of index i then does at step t + i + 1 what it does at step t of the program.

    Raises:
        UnsupportedNode: netx would compute something else.
        StorageError: the file could not be written.
    """
    write_atomic(path, netx_bytes(layered))


def netx_bytes(layered: LayeredProgram) -> bytes:
    """The content of the file; see `write_netx`."""
    source = _only_input(layered)
    blocks: list[dict[str, Any]] = [{"type": _kind("input"), "shape": np.array(source.shape, np.int64)}]
    image = len(source.shape) == 3
    for layer in layered.layers:
        (connection,) = layer.connections
        if connection.kind == "dense":
            blocks += [{"type": _kind("flatten"), "shape": _flat(connection)}] * image
            blocks.append(_dense(layer, connection))
        elif image:
            blocks.append(_conv(layer, connection))
        else:
            _refuse(layer, "its convolution hears a flat layer.", "Use a dense layer.")
        image = connection.kind == "conv"
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for i, fields in enumerate(blocks):
            for name, value in fields.items():
                file.create_dataset(f"layer/{i}/{name}", data=value)
        file.create_dataset(f"rsc/{ABOUT}", data=msgspec.json.encode(_about(layered)).decode())
        for i, layer in enumerate(layered.layers):
            if np.size(layer.offset) > 1:
                file.create_dataset(f"rsc/offset/{i}", data=np.asarray(layer.offset, np.float64))
    return buffer.getvalue()


def round_biases(layered: LayeredProgram) -> LayeredProgram:
    """The layers with biases rounded to multiples of 64 in units of v, the only ones that netx has.

    None changes by more than 32, half a unit of the weights.
    """
    return dataclasses.replace(
        layered,
        layers=tuple(
            dataclasses.replace(
                layer, bias_mant=np.rint(_bias(layer) / 64).astype(np.int32), bias_exp=BIAS_EXP
            )
            for layer in layered.layers
        ),
    )


def _kind(name: str) -> np.ndarray:
    return np.array([name.encode()], "S10")


def _only_input(layered: LayeredProgram) -> Source:
    """The input of a chain."""
    what = "netx cannot hold this program."
    if layered.arithmetic != "integer":
        raise UnsupportedNode(
            what, "Its numbers are not quantised.", 'Lower it with lower(program, "integer").'
        )
    if len(layered.inputs) != 1 or not layered.layers:
        raise UnsupportedNode(
            what,
            f"It has {len(layered.inputs)} inputs and {len(layered.layers)} layers; netx has one input.",
            "Split it into chains.",
        )
    before = layered.inputs[0].name
    for layer in layered.layers:
        heard = [c.source or "the constant 1" for c in layer.connections]
        if len(heard) > 1 and set(heard) == {before}:
            _refuse(
                layer,
                f"it hears '{before}' through {len(heard)} connections, as weights of 9 bits need; netx has "
                "one.",
                "Use at most 8 bits, and one path.",
            )
        if heard != [before]:
            _refuse(
                layer,
                f"it hears {', '.join(heard) or 'nothing'}; netx connects each layer to the one before, "
                f"here '{before}'.",
                "Use a chain: no recurrence, no skip, nothing that acts at single steps.",
            )
        if layer is not layered.layers[0] and layer.connections[0].graded:
            _refuse(layer, "it hears graded spikes of a layer.", "Use binary spikes.")
        before = layer.name
    ends = [name for _, names in layered.outputs for name in names]
    if ends != [before]:
        raise UnsupportedNode(
            what,
            f"Its output is {', '.join(ends)}; netx has one, the last layer '{before}'.",
            "Use a chain.",
        )
    return layered.inputs[0]


def _about(layered: LayeredProgram) -> About:
    source, first = layered.inputs[0], layered.layers[0].connections[0]
    return About(
        input=source.name,
        input_scale=float(source.scale),
        input_maximum=int(source.maximum),
        graded=first.graded,
        output=layered.outputs[0][0],
        layers=tuple(
            AboutLayer(
                layer.name,
                float(layer.scale),
                layer.readout,
                float(np.asarray(layer.offset).item()) if np.size(layer.offset) == 1 else 0.0,
            )
            for layer in layered.layers
        ),
        source_digest=layered.source_digest,
    )


def _flat(connection: Connection) -> np.ndarray:
    return np.array([int(np.prod(connection.source_shape)), 1, 1], np.int64)


def _dense(layer: Layer, c: Connection) -> dict[str, Any]:
    if c.pool is not None and np.ndim(c.delay):
        _refuse(layer, "synapses behind a pooling wait differently.", "Delay all of them alike.")
    weight = unpooled_matrix(c, np.asarray(c.weight, np.int64))
    if c.weight_exp < 0 and (weight % (1 << -c.weight_exp)).any():
        _refuse(layer, f"the exponent {c.weight_exp} leaves fractions of weights.", "Use exponent 0.")
    weight = weight << c.weight_exp if c.weight_exp > 0 else weight >> -c.weight_exp
    change = change_of_matrix(weight)
    if change:
        _refuse(layer, change, f"Use weights of both signs in {WEIGHT_MIN}..{WEIGHT_MAX}.")
    fields = {
        "type": _kind("dense"),
        "shape": np.array(layer.shape, np.int64),
        "inFeatures": np.int64(weight.shape[1]),
        "outFeatures": np.int64(len(weight)),
        "weight": weight.astype(np.float32),
    }
    delay = np.asarray(c.delay, np.int64)
    if delay.min(initial=0) < 0 or delay.max(initial=0) > DELAY_MAX:
        _refuse(layer, f"a synapse waits {delay.max()} steps; netx has {DELAY_MAX}.", "Delay it less.")
    if delay.any():
        each = np.broadcast_to(delay, weight.shape)
        rows = (each == each[:, :1]).all()
        fields["delay"] = (each[:, 0] if rows else each).astype(np.float32)
    return fields | _neurons(layer, flat=True)


def _conv(layer: Layer, c: Connection) -> dict[str, Any]:
    if np.any(c.delay):
        _refuse(layer, "netx ignores the delay of a convolution.", "Delay a dense layer instead.")
    if c.weight_exp:
        _refuse(layer, "netx has no exponent for a convolution.", "Multiply the weights by the power of two.")
    c = _without_pool(layer, c)
    if np.abs(c.weight).max(initial=0) > STATE_MAX:
        _refuse(layer, "weights exceed 24 bits.", "Use a smaller scale.")
    sizes = [*c.weight.shape[2:], *c.stride, *c.padding, *c.dilation, c.groups]
    if max(sizes) > CONV_FIELD_MAX:
        _refuse(
            layer,
            f"Lava keeps kernel size, stride, padding, dilation and groups in 8 bits, at most "
            f"{CONV_FIELD_MAX}; here {max(sizes)}.",
            "Use smaller ones.",
        )
    fields = {
        "type": _kind("conv"),
        "shape": np.array(layer.shape, np.int64),
        "inChannels": np.int64(c.weight.shape[1] * c.groups),
        "outChannels": np.int64(len(c.weight)),
        "kernelSize": np.array(c.weight.shape[2:], np.int64),
        "stride": np.array(c.stride, np.int64),
        "padding": np.array(c.padding, np.int64),
        "dilation": np.array(c.dilation, np.int64),
        "groups": np.int64(c.groups),
        "weight": c.weight.astype(np.float32),
    }
    return fields | _neurons(layer, flat=False)


def _neurons(layer: Layer, flat: bool) -> dict[str, Any]:
    """The fields of the neurons; those of a convolution in (W, H, C) or one for each channel."""
    if np.any(layer.v_init):
        _refuse(layer, "v starts at another value than 0.", "Start from rest (Semantics.v0 = 'zero').")
    fields: dict[str, Any] = {
        "neuron/type": "CUBA",
        "neuron/iDecay": _parameter(layer, "du", flat, 0, 4095) + 1,
        "neuron/vDecay": _parameter(layer, "dv", flat, 0, 4096),
        "neuron/vThMant": _parameter(layer, "vth", flat, 0, VTH_MAX),
        "neuron/refDelay": np.int64(1),
        "neuron/gradedSpike": np.bool_(False),
    }
    bias = _bias(layer)
    if (bias % 64).any() or np.abs(bias >> BIAS_EXP).max(initial=0) > BIAS_MANT_MAX:
        _refuse(
            layer,
            f"netx has biases of -{BIAS_MANT_MAX}..{BIAS_MANT_MAX} times 64 only.",
            "Round them with rsc.export.netx.round_biases, and look at what that changes.",
        )
    if bias.any():
        mantissa = (bias >> BIAS_EXP).astype(np.float32)
        if flat:
            fields["bias"] = mantissa.ravel()
        else:
            same = (mantissa == mantissa[:, :1, :1]).all()
            fields["bias"] = mantissa[:, 0, 0] if same else mantissa.transpose(2, 1, 0)
    return fields


def _bias(layer: Layer) -> np.ndarray:
    """In units of v, int64, in the layer's shape."""
    mantissa = np.broadcast_to(np.asarray(layer.bias_mant, np.int64), layer.shape)
    return mantissa << layer.bias_exp if layer.bias_exp >= 0 else mantissa >> -layer.bias_exp


def _parameter(layer: Layer, name: str, flat: bool, low: int, high: int) -> np.ndarray | np.int64:
    """One number for the layer, else one for each neuron (flat) or channel."""
    values = np.asarray(getattr(layer, name), np.int64)
    if values.min(initial=high) < low or values.max(initial=low) > high:
        _refuse(layer, f"its {name} is outside {low}..{high}.", "Quantise the program again.")
    if (values == values.flat[0]).all():
        return np.int64(values.flat[0])
    values = np.broadcast_to(values, layer.shape)
    if flat:
        return values.ravel()
    if (values != values[:, :1, :1]).any():
        _refuse(layer, f"its {name} differs inside a channel.", "Use one for each channel.")
    return values[:, 0, 0]


def _without_pool(layer: Layer, c: Connection) -> Connection:
    """The convolution that sums windows by itself."""
    kernel = unpooled_kernel(c, np.asarray(c.weight, np.int64))
    if kernel is None:
        _refuse(
            layer,
            "netx has no pooling, and padding keeps this one from being folded into the kernel.",
            "Pool without overlap over all pixels, or do not pad behind the pooling.",
        )
    return kernel


def _refuse(layer: Layer, why: str, fix: str) -> NoReturn:
    raise UnsupportedNode(f"netx cannot hold layer '{layer.name}' as it is:", why, fix)
