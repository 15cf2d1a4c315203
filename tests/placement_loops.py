"""Random layered programs, and what a placement takes of a chip counted by loops over their matrices.

The matrices are what torch makes of unit vectors, so that nothing here knows the geometry of a convolution.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import msgspec
import numpy as np
import torch
from torch.nn import functional as F

from rsc.export.chips import Chip, Limit, weight_bits
from rsc.export.placement import Placement, Slice
from rsc.layered import CONSTANT, Connection, Layer, LayeredProgram, Source


def lif(name: str, shape: tuple[int, ...], *connections: Connection, **changes: Any) -> Layer:
    fields: dict[str, Any] = {"du": 4095, "dv": 200, "vth": 100, "bias_mant": np.zeros(shape, np.int32)}
    return Layer(name, shape, connections, **(fields | changes))


def program(*layers: Layer, shape: tuple[int, ...], **source: Any) -> LayeredProgram:
    outputs = (("output", (layers[-1].name,)),)
    return LayeredProgram("integer", layers, (Source("x", shape, **source),), outputs)


def weights(rng: np.random.Generator, *shape: int, density: float = 1.0) -> np.ndarray:
    made = 2 * rng.integers(-128, 128, shape) * (rng.random(shape) < density)
    return made.astype(np.int32)


def with_limits(chip: Chip, **values: int) -> Chip:
    return msgspec.structs.replace(chip, **{name: Limit(value, "test") for name, value in values.items()})


def matrices(c: Connection) -> list[np.ndarray]:
    """Weights [out, in] of each delay, what torch makes of unit vectors."""
    n = math.prod(c.source_shape)
    units = torch.eye(n, dtype=torch.float64).reshape(n, *c.source_shape)
    if c.pool:
        units = F.avg_pool2d(units, *c.pool, divisor_override=1)
    found = []
    for k in np.unique(c.delay):
        w = torch.from_numpy((c.weight * (c.delay == k)).astype(np.float64))
        if c.kind == "dense":
            y = F.linear(units.flatten(1), w)
        else:
            y = F.conv2d(units, w, None, c.stride, c.padding, c.dilation, c.groups)
        found.append(np.rint(y.flatten(1).T.numpy()).astype(int))
    return found


def random_conv(rng: np.random.Generator, source: tuple[int, ...], density: float) -> Connection:
    """A convolution with at least one output site."""
    while True:
        groups = int(rng.choice([g for g in (1, 2, 3) if source[0] % g == 0]))
        out = groups * int(rng.integers(1, 4))
        kernel, stride, dilation = (tuple(rng.integers(1, top, 2).tolist()) for top in (4, 3, 3))
        pool = (_pair(rng), _pair(rng)) if rng.random() < 0.4 else None
        c = Connection(
            "x",
            "conv",
            weights(rng, out, source[0] // groups, *kernel, density=density),
            source,
            pool=pool,
            stride=stride,
            padding=tuple(rng.integers(0, 3, 2).tolist()),
            dilation=dilation,
            groups=groups,
        )
        try:
            if len(matrices(c)[0]):
                return c
        except RuntimeError:
            continue


def _pair(rng: np.random.Generator) -> tuple[int, int]:
    return int(rng.integers(1, 4)), int(rng.integers(1, 4))


def out_shape(c: Connection) -> tuple[int, ...]:
    x = torch.zeros(1, *c.source_shape)
    x = F.avg_pool2d(x, *c.pool) if c.pool else x
    w = torch.zeros(c.weight.shape)
    return tuple(F.conv2d(x, w, None, c.stride, c.padding, c.dilation, c.groups).shape[1:])


def random_program(seed: int) -> LayeredProgram:
    """conv (with a recurrent matrix) -> dense with delays, the constant and a skip -> readout of both."""
    rng = np.random.default_rng(seed)
    density = float(rng.choice([0.2, 0.6, 1.0]))
    source = (int(rng.integers(1, 4)), *rng.integers(3, 7, 2).tolist())
    conv = random_conv(rng, source, density)
    shape = out_shape(conv)
    n, hidden = math.prod(shape), int(rng.integers(3, 25))
    back = Connection("a", "dense", weights(rng, n, n, density=0.05), shape, delay=np.array(1, np.int32))
    first = lif("a", shape, conv, back, vth=rng.integers(1, 4, shape), dv=rng.integers(0, 5, shape))
    delay = rng.integers(0, 4, (hidden, n)).astype(np.int32)
    one = Connection(CONSTANT, "dense", weights(rng, hidden, 1), (1,))
    late = Connection("a", "dense", weights(rng, hidden, n, density=density), shape, delay=delay)
    skip = Connection("x", "dense", weights(rng, hidden, math.prod(source), density=0.1), source)
    second = lif("b", (hidden,), late, one, skip)
    again = [
        Connection(name, "dense", weights(rng, 3, size, density=0.5), (size,))
        for name, size in (("b", hidden), ("b", hidden), ("a", n))
    ]
    return program(first, second, lif("r", (3,), *again, readout="sum", vth=131071), shape=source)


def neurons_of(part: Slice, placement: Placement) -> list[int]:
    _, height, width = next(layer.grid for layer in placement.layers if layer.name == part.layer)
    return [
        (c * height + y) * width + x
        for c, y, x in itertools.product(*(range(*bounds) for bounds in part.box))
    ]


def list_bits(entries: int, width: int) -> int:
    """Groups of 64, each with 10 bits in front, in words of 64 bits."""
    bits = 0
    while entries > 0:
        words = math.ceil((10 + min(entries, 64) * width) / 64)
        bits, entries = bits + 64 * words, entries - 64
    return bits


def entry_bits(layered: LayeredProgram, layer: Layer, c: Connection) -> tuple[int, int, int]:
    """(bits of weight and delay, of the delay, exponent of the weights)."""
    needed, exponent = weight_bits(np.stack(matrices(c)))
    wait = np.broadcast_to(layered.waits(layer, c), c.weight.shape)[c.weight != 0].max(initial=0)
    delay = int(wait).bit_length()
    return next(b for b in (1, 2, 3, 4, 5, 6, 8, 9, 99) if b >= needed) + delay, delay, exponent


def core_by_loops(layered: LayeredProgram, placement: Placement, number: int) -> dict[str, Any]:
    """What a core takes without shared kernels, and from which neurons it hears."""
    core = placement.cores[number]
    neurons = sum(len(neurons_of(part, placement)) for part in core.slices)
    index_bits = next(b for b in (0, 6, 7, 8, 9, 10) if 2**b >= neurons)
    synapses = bits = 0
    axons, configs, vths, formats = set(), set(), set(), set()
    for part in core.slices:
        layer, rows = layered.by_name[part.layer], neurons_of(part, placement)
        for row in rows:
            du, dv, vth = (np.broadcast_to(v, layer.shape).flat[row] for v in (layer.du, layer.dv, layer.vth))
            configs.add((int(du), int(dv)))
            vths.add(int(vth))
        for c in layer.connections:
            found = matrices(c)
            entry, delay, exponent = entry_bits(layered, layer, c)
            lists = []
            for j in range(found[0].shape[1]):
                targets = sum(int(m[i, j] != 0) for m in found for i in rows)
                if targets:
                    lists.append(targets)
                    axons.add((c.source, j))
            synapses += sum(lists)
            listed = sum(list_bits(entries, entry + index_bits) for entries in lists)
            single = len(found) == 1 or np.sum([m != 0 for m in found], axis=0).max() <= 1
            run = len(lists) * list_bits(len(rows), entry) if single else listed
            bits += min(run, listed)
            if lists:
                formats.add((exponent + c.weight_exp, entry, delay, run < listed))
    return {
        "neurons": neurons,
        "synapses": synapses,
        "synaptic_bits": bits,
        "input_axons": len(axons),
        "compartment_configs": len(configs),
        "vth_configs": len(vths),
        "synapse_configs": len(formats),
        "axons": axons,
    }


def mlp() -> LayeredProgram:
    """784-256-10."""
    rng = np.random.default_rng(0)
    hidden = lif("hidden", (256,), Connection("x", "dense", odd(rng, 256, 784), (784,)))
    out = lif("out", (10,), Connection("hidden", "dense", odd(rng, 10, 256), (256,)))
    return program(hidden, out, shape=(784,))


def convnet() -> LayeredProgram:
    """Net b of the Lava benchmarks: 8 3x3 kernels, 16 of stride 2, a readout."""
    rng = np.random.default_rng(0)
    one = Connection("x", "conv", odd(rng, 8, 1, 3, 3), (1, 28, 28), padding=(1, 1))
    two = Connection("c1", "conv", odd(rng, 16, 8, 3, 3), (8, 28, 28), padding=(1, 1), stride=(2, 2))
    out = lif("out", (10,), Connection("c2", "dense", odd(rng, 10, 3136), (16, 14, 14)))
    return program(lif("c1", (8, 28, 28), one), lif("c2", (16, 14, 14), two), out, shape=(1, 28, 28))


def odd(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Weights of 8 bits with sign, none of them 0, times 2."""
    return (2 * (2 * rng.integers(-64, 64, shape) + 1)).astype(np.int32)
