"""Layered programs for the tests of the Lava target; input "x", the last layer is the output."""

from __future__ import annotations

import dataclasses
from typing import Any

import lava_listing
import numpy as np

from rsc.layered import Connection, Layer, LayeredProgram


def grid(rng: np.random.Generator, *shape: int, low: int = -256, high: int = 254) -> np.ndarray:
    """Random weights on Lava's mixed-sign grid."""
    return 2 * rng.integers(low // 2, high // 2 + 1, shape).astype(np.int32)


def lif(name: str, shape: tuple[int, ...], *connections: Connection, **changes: Any) -> Layer:
    fields: dict[str, Any] = {"du": 4095, "dv": 200, "vth": 100, "bias_mant": np.zeros(shape, np.int32)}
    return Layer(name, shape, connections, **(fields | changes))


def program(
    *layers: Layer, shape: tuple[int, ...], arithmetic: Any = "integer", input_max: int = 1
) -> LayeredProgram:
    return LayeredProgram(arithmetic, layers, "x", shape, layers[-1].name, 1.0, input_max)


def fit(layer: Layer) -> Layer:
    """The layer with the shape its connection really delivers."""
    c = layer.connections[0]
    out = lava_listing.current(c, np.zeros(c.source_shape), layer.shape, True).shape
    return dataclasses.replace(layer, shape=out, bias_mant=np.zeros(out, np.int32))


def chain(rng: np.random.Generator, arithmetic: Any = "integer") -> LayeredProgram:
    """Input (2, 7, 6) -> conv -> pooled conv -> dense -> accumulator; biases strong enough to fire alone."""
    integer = arithmetic == "integer"

    def weight(*shape: int) -> np.ndarray:
        return grid(rng, *shape, low=-120, high=120) if integer else rng.normal(0, 0.4, shape)

    def layer(name: str, shape: tuple[int, ...], c: Connection, **changes: Any) -> Layer:
        if integer:
            neuron = {
                "du": 3000,
                "dv": 300,
                "vth": 90,
                "bias_mant": rng.integers(-40, 90, shape),
                "bias_exp": 6,
            }
        else:
            neuron = {"du": 0.7, "dv": 0.1, "vth": 0.9, "bias_mant": rng.normal(0.3, 0.3, shape)}
        return lif(name, shape, c, **(neuron | changes))

    two = (2, 2)
    end = {"du": 4095, "dv": 0, "vth": 131071} if integer else {"du": 1.0, "dv": 0.0, "vth": 1e30}
    readout = Connection("c", "dense", weight(3, 5), (5,))
    return program(
        layer("a", (3, 7, 6), Connection("x", "conv", weight(3, 2, 3, 3), (2, 7, 6), padding=(1, 1))),
        layer("b", (4, 2, 2), Connection("a", "conv", weight(4, 3, 2, 2), (3, 7, 6), pool=(two, two))),
        layer("c", (5,), Connection("b", "dense", weight(5, 16), (4, 2, 2))),
        layer("r", (3,), readout, scale=12.5 if integer else 1.0, readout=True, **end),
        shape=(2, 7, 6),
        arithmetic=arithmetic,
    )


def dense_chain(rng: np.random.Generator) -> LayeredProgram:
    """Input (6,) -> dense -> accumulator that overflows; quick to start, as Lava's Conv is not imported."""
    bias: dict[str, Any] = {"bias_mant": rng.integers(-40, 90, 5), "bias_exp": 6}
    first = lif("a", (5,), Connection("x", "dense", grid(rng, 5, 6), (6,)), **bias)
    c = Connection("a", "dense", np.full((2, 5), 254, np.int32), (5,), 8)
    end = lif("r", (2,), c, du=4095, dv=0, vth=131071, readout=True)
    return program(first, end, shape=(6,))


def tiny() -> LayeredProgram:
    c = Connection("x", "dense", np.full((1, 1), 10, np.int32), (1,))
    return program(lif("lif", (1,), c), shape=(1,))
