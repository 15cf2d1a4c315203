"""Kernels, pooling and flattening in Lava's layout compute what torch computes; what cannot is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import scipy.signal
import scipy.sparse
import torch
from torch.nn import functional as F

from rsc.errors import UnsupportedNode
from rsc.hw_targets import lava_layout, lava_neuron
from rsc.layered import CONSTANT, Connection, Layer

Pair = tuple[int, int]


def lif(shape: tuple[int, ...], *connections: Connection, **changes: Any) -> Layer:
    fields: dict[str, Any] = {
        "du": 4095,
        "dv": 0,
        "vth": 100,
        "bias_mant": np.zeros(shape, np.int32),
    } | changes
    return Layer("lif", shape, connections, **fields)


def torch_current(c: Connection, x: np.ndarray) -> np.ndarray:
    """The connection as torch computes it in float64, [N, C, H, W] in."""
    y = torch.from_numpy(x.astype(np.float64))
    if c.pool is not None:
        y = F.avg_pool2d(y, *c.pool, divisor_override=1)
    weight = torch.from_numpy(c.weight.astype(np.float64))
    if c.kind == "dense":
        return F.linear(y.flatten(1), weight).numpy()
    return F.conv2d(y, weight, None, c.stride, c.padding, c.dilation, c.groups).numpy()


def lava_current(s: lava_layout.Synapses, x: np.ndarray) -> np.ndarray:
    """A connection process in Lava's layout [N, W, H, C], by scipy's true convolution (matrices: flat)."""
    if s.kind == "dense":
        return x.reshape(len(x), -1) @ s.arrays["weight"].T
    if s.kind == "sparse":
        parts = (s.arrays["data"], s.arrays["indices"], s.arrays["indptr"])
        return (scipy.sparse.csr_matrix(parts, shape=s.fields["matrix_shape"]) @ x.reshape(len(x), -1).T).T
    f, weight = s.fields, s.arrays["weight"]
    (px, py), (sx, sy), (dx, dy) = f["padding"], f["stride"], f["dilation"]
    kernel = np.zeros(
        (len(weight), dx * (weight.shape[1] - 1) + 1, dy * (weight.shape[2] - 1) + 1, weight.shape[3])
    )
    kernel[:, ::dx, ::dy] = weight
    x = np.pad(x, ((0, 0), (px, px), (py, py), (0, 0)))
    per_group = weight.shape[3]
    planes = []
    for o in range(len(weight)):
        first = o // (len(weight) // f["groups"]) * per_group
        parts = [
            [
                scipy.signal.convolve2d(image[..., first + i], kernel[o, ..., i], "valid")
                for i in range(per_group)
            ]
            for image in x
        ]
        planes.append(np.array(parts).sum(1)[:, ::sx, ::sy])
    return np.stack(planes, -1)


CASES = [
    # C_in, C_out, kernel, stride, padding, dilation, groups, H, W, pool, expected kind
    (3, 4, (3, 5), (1, 2), (1, 2), (1, 1), 1, 9, 11, None, "conv"),
    (4, 6, (2, 2), (2, 2), (0, 0), (1, 1), 2, 8, 10, None, "conv"),
    (4, 4, (2, 2), (2, 2), (0, 0), (1, 1), 4, 8, 8, None, "conv"),
    (2, 3, (3, 3), (1, 1), (2, 1), (2, 1), 1, 9, 7, None, "conv"),
    (2, 3, (3, 2), (1, 2), (1, 1), (1, 1), 1, 8, 12, ((2, 3), (2, 3)), "conv"),
    (2, 4, (2, 3), (2, 1), (0, 0), (2, 2), 2, 17, 19, ((2, 2), (2, 2)), "conv"),  # rows and columns left over
    (2, 3, (2, 2), (1, 1), (0, 0), (1, 1), 1, 9, 9, ((3, 3), (2, 2)), "conv"),  # overlapping, no padding
    (2, 3, (2, 2), (1, 1), (0, 0), (1, 1), 1, 9, 9, ((1, 1), (3, 2)), "conv"),  # gaps between the windows
    (2, 3, (3, 3), (1, 1), (1, 1), (1, 1), 1, 9, 9, ((3, 3), (2, 2)), "sparse"),  # overlapping, padded
    (2, 3, (3, 3), (1, 1), (1, 1), (1, 1), 1, 9, 7, ((2, 2), (2, 2)), "sparse"),  # left over, padded
    (130, 130, (1, 1), (1, 1), (0, 0), (1, 1), 130, 2, 3, None, "sparse"),  # more groups than Lava's 8 bits
]


@pytest.mark.parametrize("case", CASES)
def test_convolutions_agree_with_torch(case):
    c_in, c_out, kernel, stride, padding, dilation, groups, height, width, pool, kind = case
    rng = np.random.default_rng(0)
    weight = 2 * rng.integers(-13, 13, (c_out, c_in // groups, *kernel)).astype(np.int32)
    shape = (c_in, height, width)
    c = Connection("x", "conv", weight, shape, 0, pool, stride, padding, dilation, groups, graded=True)
    x = rng.integers(-50, 50, (2, *shape))
    expected = torch_current(c, x)
    built = lava_layout.synapses(c, lif(expected.shape[1:], c), integer=True, payload_max=50)
    got = lava_current(built, lava_layout.to_lava(x, 1)).reshape(2, *expected.shape[:0:-1])
    assert built.kind == kind
    assert np.array_equal(lava_layout.to_lava(got, 1), expected)


@pytest.mark.parametrize("pool", [None, ((2, 2), (2, 2)), ((3, 2), (2, 1)), ((2, 3), (3, 4))])
def test_dense_columns_follow_the_flattened_image(pool: tuple[Pair, Pair] | None):
    rng = np.random.default_rng(1)
    shape, out = (2, 7, 9), (3, 2, 2)
    x = rng.integers(-50, 50, (4, *shape))
    sites = int(
        np.prod(torch_current(Connection("x", "conv", np.ones((1, 2, 1, 1)), shape, 0, pool), x).shape[2:])
    )
    c = Connection("x", "dense", 2 * rng.integers(-13, 13, (12, 2 * sites)), shape, 0, pool, graded=True)
    built = lava_layout.synapses(c, lif(out, c), integer=True, payload_max=50)
    got = lava_current(built, lava_layout.to_lava(x, 1)).reshape(4, *out[::-1])
    assert np.array_equal(lava_layout.to_lava(got, 1).reshape(4, -1), torch_current(c, x))


def conv(weight: np.ndarray, **changes: Any) -> Connection:
    return Connection("x", "conv", weight, (1, 6, 6), **changes)


REFUSED = [
    (lif((2,), Connection("x", "dense", np.array([[3], [-2]]), (1,))), "even"),
    (lif((2,), Connection("x", "dense", np.array([[256], [2]]), (1,))), "even"),
    (lif((1,), Connection("x", "dense", np.array([[0.5]]), (1,))), "integers"),
    (lif((1,), Connection("x", "dense", np.array([[np.nan]]), (1,))), "not finite"),
    (
        lif((1,), Connection("x", "dense", np.full((1, 4), 200), (1, 3, 3), pool=((2, 2), (1, 1)))),
        "overlapping",
    ),
    (lif((1, 6, 6), conv(np.ones((1, 1, 1, 1), np.int32), weight_exp=1)), "weight_exp"),
    (lif((1, 4, 4), conv(np.full((1, 1, 3, 3), 1 << 22), graded=True)), "32 bits"),
]


@pytest.mark.parametrize(("layer", "reason"), REFUSED)
def test_weights_that_lava_would_change_are_refused(layer: Layer, reason: str):
    with pytest.raises(UnsupportedNode, match=reason):
        lava_layout.synapses(layer.connections[0], layer, integer=True, payload_max=100)


@pytest.mark.parametrize(
    "wrong",
    [{"du": 0.5}, {"du": 4096}, {"dv": -1}, {"dv": 4097}, {"vth": 1 << 17}, {"vth": 1.5}, {"bias_exp": 8}],
)
def test_parameters_outside_the_chip_are_refused(wrong: dict[str, float]):
    with pytest.raises(UnsupportedNode, match=next(iter(wrong))):
        lava_neuron.neuron(lif((1,), **wrong), integer=True)


@pytest.mark.parametrize("mantissa", [4096, -4097, 0.5])
def test_biases_that_would_wrap_or_be_cut_are_refused(mantissa: float):
    with pytest.raises(UnsupportedNode, match="mantissas"):
        lava_neuron.bias(lif((1,), bias_mant=np.array([mantissa])), integer=True)


def test_parameters_per_neuron_take_lavas_layout_and_integer_types():
    shape = (2, 3, 4)
    values = np.arange(24).reshape(shape)
    made = lava_neuron.neuron(lif(shape, du=values, dv=np.full(shape, 7), vth=9, v_init=values - 12), True)
    assert np.array_equal(made["du"], values.transpose(2, 1, 0))
    assert np.array_equal(made["v_init"], values.transpose(2, 1, 0) - 12)
    assert made["dv"].shape == made["vth"].shape == ()
    assert {value.dtype for value in made.values()} == {np.dtype(np.int32)}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"du": np.array([1, 4096])}, "du is 4096"),
        ({"vth": np.array([1.5, 2.0])}, "vth is 1.5"),
        ({"v_init": np.array([0, 1 << 23])}, "v_init is 8388608"),
        ({"dv": np.array([0.0, np.nan])}, "not finite: dv"),
        ({"dv": np.array([1, 2, 3])}, "dv has the shape"),
    ],
)
def test_parameters_per_neuron_are_checked(wrong: dict[str, Any], words: str):
    with pytest.raises(UnsupportedNode, match=words):
        lava_neuron.neuron(lif((2,), **wrong), integer=True)


def test_delays_follow_their_synapses():
    rng = np.random.default_rng(2)
    shape, out = (2, 3, 4), (2, 1, 3)
    weight = 2 * rng.integers(-13, 13, (6, 24)).astype(np.int32)
    waits = rng.integers(0, 5, (6, 24)).astype(np.int32)
    c = Connection("x", "dense", weight, shape)
    built = lava_layout.synapses(c, lif(out, c), True, 1, False, waits)
    assert built.kind == "delay_dense"
    assert built.fields["longest"] == waits.max()
    assert built.arrays["delays"].dtype == np.int64  # Lava takes no other
    for value, expected in (("weight", weight), ("delays", waits)):
        lava = built.arrays[value].reshape(*out[::-1], *shape[::-1])
        assert np.array_equal(lava.transpose(2, 1, 0, 5, 4, 3).reshape(6, 24), expected)


@pytest.mark.parametrize("shift", [0, 3])
def test_a_convolution_that_waits_is_a_matrix(shift: int):
    """A power of two that a kernel has taken in becomes the exponent that a matrix needs."""
    rng = np.random.default_rng(3)
    weight = (2 * rng.integers(-128, 127, (3, 2, 3, 3))).astype(np.int32) << shift
    c = Connection("x", "conv", weight, (2, 4, 5), padding=(1, 1), graded=True)
    x = rng.integers(-9, 9, (2, 2, 4, 5))
    built = lava_layout.synapses(c, lif((3, 4, 5), c), True, 9, False, np.asarray(4, np.int32))
    assert (built.kind, built.fields["longest"], built.fields["weight_exp"]) == ("delay_sparse", 4, shift)
    current = lava_current(dataclasses.replace(built, kind="sparse"), lava_layout.to_lava(x, 1)) << shift
    assert np.array_equal(lava_layout.to_lava(current.reshape(2, 5, 4, 3), 1), torch_current(c, x))


def test_the_constant_has_a_column_for_each_first_step():
    weight = np.array([[2], [4], [6], [8]], np.int32)
    c = Connection(CONSTANT, "dense", weight, (1,), delay=np.array([[0], [3], [0], [9]], np.int32))
    built = lava_layout.synapses(c, lif((2, 1, 2), c), integer=True)
    assert built.arrivals == (0, 3, 9)
    assert built.arrays["weight"].tolist() == [[2, 0, 0], [6, 0, 0], [0, 4, 0], [0, 0, 8]]


WAIT = np.asarray(1, np.int32)
WAITS_REFUSED = [
    (Connection("x", "dense", np.ones((1, 1)) * 2, (1,)), np.asarray(63, np.int32), 1, "waits 63 steps"),
    (conv(np.full((1, 1, 1, 1), 2)), np.ones((36, 36), np.int32), 1, "wait differently"),
    (Connection("x", "conv", np.array([3, -1]).reshape(1, 2, 1, 1), (2, 6, 6)), WAIT, 1, "even"),
    (conv(np.full((1, 1, 1, 1), 254), graded=True), WAIT, 1 << 16, "wraps at 24 bits"),
    (Connection("x", "dense", np.ones((1, 1)) * 2, (1,), graded=True), WAIT, 1 << 23, "32 bits"),
    (
        Connection("x", "dense", np.ones((1, 4)) * 2, (1, 4, 4), pool=((2, 2), (2, 2))),
        np.array([[0, 1, 0, 0]], np.int32),
        1,
        "behind a pooling",
    ),
    (Connection("x", "dense", np.zeros((1000, 1000), np.int32), (1000,)), WAIT * 60, 1, "more than"),
]


@pytest.mark.parametrize(("connection", "waits", "payload_max", "words"), WAITS_REFUSED)
def test_waits_that_lava_cannot_hold_are_refused(
    connection: Connection, waits: np.ndarray, payload_max: int, words: str
):
    shape = (1, 6, 6) if connection.kind == "conv" else (len(connection.weight),)
    with pytest.raises(UnsupportedNode, match=words):
        lava_layout.synapses(connection, lif(shape, connection), True, payload_max, False, waits)
