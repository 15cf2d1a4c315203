"""Network files of lava-dl: slayer's are read as netx runs them, ours keep the layers in both."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import h5py
import lava_listing
import lava_networks as nets
import netx_files
import numpy as np
import pytest

from rsc.errors import UnsupportedNode
from rsc.export.netx import netx_bytes, round_biases
from rsc.export.netx_format import change_of_matrix
from rsc.export.netx_reader import read_netx
from rsc.layered import Connection, Layer, LayeredProgram


def traces(layered: LayeredProgram, steps: int = 14, seed: int = 3) -> dict[str, lava_listing.Trace]:
    frames = nets.frames(layered, np.random.default_rng(seed), steps, 2)
    return lava_listing.run(layered, lava_listing.payloads(layered, frames))


def same_traces(a: LayeredProgram, b: LayeredProgram) -> None:
    ours, theirs = traces(a), traces(b)
    assert list(ours) == list(theirs)
    for name, trace in ours.items():
        for field in ("s", "u", "v"):
            np.testing.assert_array_equal(getattr(trace, field), getattr(theirs[name], field), err_msg=name)
        assert trace.v.any() or trace.s.any()


def same_layer(a: Layer, b: Layer) -> None:
    assert (a.name, a.shape, a.scale, a.readout) == (b.name, b.shape, b.scale, b.readout)
    for field in ("du", "dv", "vth", "bias_mant", "v_init", "offset"):
        ours, theirs = (np.broadcast_to(np.asarray(getattr(x, field)), x.shape) for x in (a, b))
        np.testing.assert_array_equal(ours, theirs, err_msg=field)
    (c,), (d,) = a.connections, b.connections
    for field in dataclasses.fields(Connection):
        np.testing.assert_array_equal(getattr(c, field.name), getattr(d, field.name), err_msg=field.name)


def test_slayers_file_gives_its_layers(tmp_path: Path) -> None:
    """Threshold 1.25, current_decay 0.25, voltage_decay 0.03 at slayer's scales 64 and 4096."""
    path = netx_files.dense_file(tmp_path / "slayer.net")
    found = read_netx(path)
    assert found.arithmetic == "integer"
    assert [(s.name, s.shape, s.maximum) for s in found.inputs] == [("input", (30,), 1)]
    assert found.outputs == (("output", ("layer1",)),)
    with h5py.File(path) as file:
        for i, layer in enumerate(found.layers):
            assert (layer.name, layer.shape, layer.bias_exp) == (f"layer{i}", ((40,), (5,))[i], 6)
            assert (layer.du, layer.dv, layer.vth) == (1023, 123, 80)
            assert layer.vth / layer.scale == 1.25
            assert not layer.bias_mant.any()
            (c,) = layer.connections
            assert c.weight.dtype == np.int32
            assert (c.weight_exp, c.delay, c.graded) == (0, 0, False)
            np.testing.assert_array_equal(c.weight, np.asarray(file[f"layer/{i}/weight"]))
    assert traces(found)["layer1"].s.any()


@pytest.mark.parametrize(
    ("delay", "expected"),
    [
        (np.arange(40.0, dtype=np.float32), np.arange(40)[:, None]),
        (np.arange(30.0, dtype=np.float32), np.arange(30)[None]),
        (np.float32(3), 3),
        (np.arange(1200.0).reshape(40, 30) % 63, np.arange(1200).reshape(40, 30) % 63),
    ],
)
def test_delays_are_spread_as_netx_does(tmp_path: Path, delay: Any, expected: Any) -> None:
    (c,) = (
        read_netx(netx_files.dense_file(tmp_path / "a.net", **{"layer/0/delay": delay})).layers[0].connections
    )
    np.testing.assert_array_equal(np.broadcast_to(c.delay, (40, 30)), np.broadcast_to(expected, (40, 30)))


def test_what_netx_clips_is_clipped_and_told(tmp_path: Path) -> None:
    weight = np.zeros((40, 30), np.float32)
    weight[0, :2] = -512, 510
    path = netx_files.dense_file(tmp_path / "a.net", **{"layer/0/weight": weight})
    with pytest.warns(UserWarning, match="clips to -256..254"):
        found = read_netx(path)
    assert found.layers[0].connections[0].weight[0, :2].tolist() == [-256, 254]
    path = netx_files.dense_file(tmp_path / "b.net", **{"layer/0/delay": np.full(40, 70.0)})
    with pytest.warns(UserWarning, match="clips to 62"):
        found = read_netx(path)
    assert found.layers[0].connections[0].delay == 62


def test_odd_weights_and_blocks_without_neurons(tmp_path: Path) -> None:
    """Odd weights are twice as large and halved in the sum; slayer's Affine adds up without neurons."""
    odd = netx_files.rng().integers(-127, 128, (40, 30))
    changes = {f"layer/1/neuron/{name}": None for name in ("type", *netx_files.CUBA)}
    found = read_netx(
        netx_files.dense_file(tmp_path / "a.net", **{"layer/0/weight": odd.astype(np.float32)} | changes)
    )
    (c,) = found.layers[0].connections
    np.testing.assert_array_equal(c.weight, 2 * odd)
    assert c.weight_exp == -1
    assert found.layers[1].readout == "sum"
    end, before = traces(found)["layer1"], traces(found)["layer0"]
    weight = found.layers[1].connections[0].weight
    np.testing.assert_array_equal(end.v, np.cumsum(before.s @ weight.T.astype(int), 0) << 6)


def test_thresholds_that_v_cannot_reach(tmp_path: Path) -> None:
    """2^18 - 1 is what slayer's Affine with dynamics has; its v is the output."""
    path = netx_files.dense_file(tmp_path / "a.net", **{"layer/1/neuron/vThMant": (1 << 18) - 1})
    layer = read_netx(path).layers[1]
    assert (layer.vth, layer.readout) == (131071, "state")


def test_everything_survives_writing_and_reading(tmp_path: Path) -> None:
    layered = netx_files.images()
    found = read_netx(netx_files.written(layered, tmp_path))
    for a, b in zip(layered.layers, found.layers, strict=True):
        same_layer(a, b)
    assert (found.outputs, found.source_digest) == (layered.outputs, layered.source_digest)
    assert [dataclasses.asdict(s) for s in found.inputs] == [dataclasses.asdict(s) for s in layered.inputs]
    same_traces(layered, found)
    assert netx_bytes(found) == netx_bytes(layered)


def test_spiking_and_flat_inputs_survive(tmp_path: Path) -> None:
    first = Connection("x", "dense", nets.grid(netx_files.rng(), 4, 12), (3, 2, 2))
    layered = nets.program(nets.lif("a", (2, 2, 1), first), shape=(3, 2, 2))
    found = read_netx(netx_files.written(layered, tmp_path))
    same_layer(layered.layers[0], found.layers[0])
    assert found.inputs[0].shape == (3, 2, 2)
    same_traces(layered, found)


@pytest.mark.parametrize("kind", ["conv", "padded conv", "dense"])
@pytest.mark.parametrize(("size", "stride"), [((2, 2), (2, 2)), ((3, 2), (2, 1)), ((1, 2), (2, 3))])
def test_pooling_is_folded_exactly(tmp_path: Path, kind: str, size: Any, stride: Any) -> None:
    """Windows that overlap or leave gaps, kernels with dilation; what cannot be folded is refused."""
    r, shape = netx_files.rng(), (2, 9, 8)
    pool = (size, stride)
    if kind == "dense":
        pooled = lava_listing.sum_pool(np.zeros(shape), size, stride).size
        c = Connection("x", "dense", nets.grid(r, 3, pooled, low=-40, high=40), shape, pool=pool)
    else:
        padding = (1, 1) if kind == "padded conv" else (0, 0)
        weight = nets.grid(r, 3, 2, 2, 2, low=-40, high=40)
        c = Connection("x", "conv", weight, shape, pool=pool, dilation=(1, 2), padding=padding)
    layered = nets.program(nets.fit(nets.lif("a", (3,), c)), shape=shape)
    if kind == "padded conv" and size != (1, 2):
        with pytest.raises(UnsupportedNode, match="padding keeps"):
            netx_bytes(layered)
        return
    found = read_netx(netx_files.written(layered, tmp_path))
    assert found.layers[0].connections[0].pool is None
    same_traces(layered, found)


def test_padding_that_meets_no_pixel_is_folded(tmp_path: Path) -> None:
    weight, pool = nets.grid(netx_files.rng(), 3, 2, 3, 3, low=-40, high=40), ((2, 2), (2, 2))
    c = Connection("x", "conv", weight, (2, 8, 8), pool=pool, padding=(1, 1))
    layered = nets.program(nets.fit(nets.lif("a", (3,), c)), shape=(2, 8, 8))
    same_traces(layered, read_netx(netx_files.written(layered, tmp_path)))


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        ([[0, 0]], False),
        ([[-256, 254]], True),
        ([[-3, 253]], True),
        ([[-258, 2]], False),
        ([[-2, 256]], False),
        ([[0, 255]], True),
        ([[0, 256]], False),
        ([[-127, -5]], True),
        ([[-128, -6]], False),
        ([[-256, -6]], False),
        ([[-254, 0]], True),
        ([[-253, 0]], False),
        ([[-126, -125, 0]], True),
    ],
)
def test_matrices_that_netx_changes_are_known(rows: list[list[int]], kept: bool) -> None:
    """Recorded from lava-dl 0.6.0 (optimize_weight_bits) and lava-nc 0.10.0 (Dense in fixed point)."""
    assert (not change_of_matrix(np.array(rows))) == kept


def test_rounded_biases_can_be_held(tmp_path: Path) -> None:
    c = Connection("x", "dense", nets.grid(netx_files.rng(), 3, 4), (4,))
    made = nets.program(nets.lif("a", (3,), c, bias_mant=np.array([100, -33, 7]), bias_exp=3), shape=(4,))
    rounded = round_biases(made)
    assert (rounded.layers[0].bias_mant << rounded.layers[0].bias_exp).tolist() == [768, -256, 64]
    same_layer(rounded.layers[0], read_netx(netx_files.written(rounded, tmp_path)).layers[0])


def as_in_netx(layered: LayeredProgram, path: Path, bits: int, skip: int = 0, steps: int = 20) -> None:
    """Compare parameters, spikes of every step and v after the last one with netx'."""
    frames = nets.frames(layered, np.random.default_rng(5), steps, 1)
    payloads = lava_listing.payloads(layered, frames)
    ours = lava_listing.run(layered, payloads)
    theirs = netx_files.in_netx(path, payloads[layered.inputs[0].name][:, 0], bits, skip)
    for i, layer in enumerate(layered.layers):
        (c,), late = layer.connections, i + 1
        weight = theirs[f"weight{i}"] * 2.0 ** theirs[f"exp{i}"]
        if c.kind == "conv":
            weight = weight.transpose(0, 3, 2, 1)[:, :, ::-1, ::-1]
        np.testing.assert_array_equal(weight, c.weight * 2.0**c.weight_exp)
        for name in ("du", "dv", "vth"):
            value = np.asarray(getattr(layer, name))
            value = value[:, 0, 0] if value.ndim == 3 else value
            if layer.readout != "sum":
                np.testing.assert_array_equal(np.squeeze(theirs[f"{name}{i}"]), value)
        spikes = np.moveaxis(theirs[f"s{i}"], -1, 0)
        spikes = spikes.transpose(0, *range(spikes.ndim - 1, 0, -1))
        trace = ours[layer.name]
        np.testing.assert_array_equal(spikes[late:] != 0, trace.s[: steps - late, 0])
        v = theirs[f"v{i}"].transpose(*range(theirs[f"v{i}"].ndim - 1, -1, -1))
        np.testing.assert_array_equal(v, trace.v[steps - late - 1, 0])
        assert trace.s.any() or layer.readout
        assert trace.v.any()


def test_netx_runs_our_file_as_our_layers(tmp_path: Path) -> None:
    layered = netx_files.images()
    as_in_netx(layered, netx_files.written(layered, tmp_path), bits=24)


def test_netx_runs_slayers_file_as_we_do(tmp_path: Path) -> None:
    path = netx_files.dense_file(tmp_path / "a.net", **{"layer/0/delay": np.arange(40.0) % 3})
    as_in_netx(read_netx(path), path, bits=0)
