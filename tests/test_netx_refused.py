"""What netx cannot hold, and files that are damaged, hostile or ask for more, end in an error with words."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import lava_networks as nets
import netx_files
import numpy as np
import pytest

from rsc.errors import InputRefused, MalformedFile, RscError, UnsupportedNode
from rsc.export import hdf5_child, hdf5_file
from rsc.export.netx import netx_bytes, write_netx
from rsc.export.netx_reader import read_netx
from rsc.layered import CONSTANT, Connection, LayeredProgram


def in_this_process(file: Any, limit: int, trust: bool, names: tuple[str, ...]) -> bytearray:
    """What the reading process would write, without one."""
    out = io.BytesIO()
    hdf5_child.answer(file.read(), limit, out, names)
    return bytearray(out.getbuffer())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own files with wrong fields need no process of their own."""
    monkeypatch.setattr(hdf5_file, "_in_child", in_this_process)


def variant(**changes: Any) -> Callable[[], LayeredProgram]:
    """A single dense layer with changes of the layer, or of its connection where the names are its fields."""

    def make() -> LayeredProgram:
        own = {f.name for f in dataclasses.fields(Connection)}
        c = Connection("x", "dense", nets.grid(netx_files.rng(), 3, 4), (4,))
        c = dataclasses.replace(c, **{k: v for k, v in changes.items() if k in own})
        layer = nets.lif("a", (3,), c, **{k: v for k, v in changes.items() if k not in own})
        return nets.program(layer, shape=(4,))

    return make


def skip() -> LayeredProgram:
    a = nets.lif("a", (3,), Connection("x", "dense", nets.grid(netx_files.rng(), 3, 4), (4,)))
    b = nets.lif("b", (3,), Connection("a", "dense", nets.grid(netx_files.rng(), 3, 3), (3,)),
                 Connection("x", "dense", nets.grid(netx_files.rng(), 3, 4), (4,)))  # fmt: skip
    return nets.program(a, b, shape=(4,))


def conv_with(**changes: Any) -> Callable[[], LayeredProgram]:
    def make() -> LayeredProgram:
        c = Connection("x", "conv", nets.grid(netx_files.rng(), 3, 2, 2, 2), (2, 5, 5))
        own = {f.name for f in dataclasses.fields(Connection)}
        c = dataclasses.replace(c, **{k: v for k, v in changes.items() if k in own})
        layer = nets.lif("a", (3, 4, 4), c, **{k: v for k, v in changes.items() if k not in own})
        return nets.program(layer, shape=(2, 5, 5))

    return make


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: dataclasses.replace(variant()(), arithmetic="float"), "not quantised"),
        (skip, "it hears a, x"),
        (variant(source="a"), "it hears a; netx connects"),
        (variant(source=CONSTANT), "it hears the constant 1"),
        (lambda: dataclasses.replace(variant()(), outputs=(("o", ("a",)), ("p", ("a",)))), "output is a, a"),
        (variant(weight=np.zeros((3, 4), np.int32)), "all its weights are 0"),
        (variant(weight=np.full((3, 4), 254, np.int32), weight_exp=1), "turns weights up to 508 into 0"),
        (variant(weight=np.full((3, 4), -128, np.int32)), "none is positive"),
        (variant(weight=np.full((3, 4), 3, np.int32), weight_exp=-1), "fractions"),
        (variant(delay=np.asarray(63, np.int32)), "waits 63"),
        (variant(bias_mant=np.full(3, 100), bias_exp=3), "times 64"),
        (variant(bias_mant=np.full(3, 2048), bias_exp=7), "times 64"),
        (variant(v_init=64), "another value than 0"),
        (variant(du=-1), "du is outside"),
        (variant(vth=1 << 17), "vth is outside"),
        (conv_with(delay=np.asarray(1, np.int32)), "ignores the delay"),
        (conv_with(weight_exp=1), "no exponent"),
        (conv_with(weight=np.full((3, 2, 2, 2), 1 << 23, np.int32)), "24 bits"),
        (conv_with(dilation=(200, 1)), "at most 127"),
        (conv_with(dv=np.arange(48).reshape(3, 4, 4)), "dv differs inside a channel"),
    ],
)
def test_what_netx_cannot_hold_is_refused_with_a_reason(
    make: Callable[[], LayeredProgram], why: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedNode) as caught:
        write_netx(make(), tmp_path / "a.net")
    assert why in str(caught.value)
    assert caught.value.fix
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "changes",
    [
        {"layer/0/type": np.array([b"pool"], "S10")},
        {"layer/0/type": np.array([b"\xff\xfe"], "S10")},
        {"layer/0/type": 3.0},
        {"layer/0/type": None},
        {"layer/0/shape": np.array([40, 1])},
        {"layer/0/shape": np.array([-40])},
        {"layer/0/shape": np.array([1 << 62, 1 << 62, 1])},
        {"layer/0/shape": np.array([41])},
        {"layer/0/weight": None},
        {"layer/0/weight": None, "layer/0/weight/real": np.ones((40, 30))},
        {"layer/0/weight": np.ones((40, 31), np.float32)},
        {"layer/0/weight": np.full((40, 30), 0.5)},
        {"layer/0/weight": np.full((40, 30), np.nan)},
        {"layer/0/weight": np.full((40, 30), 1e300)},
        {"layer/0/weight": np.zeros((40, 30))},
        {"layer/0/weight": "text"},
        {"layer/0/weight": np.zeros((0, 30))},
        {"layer/1/weight": np.ones((5, 41))},
        {"layer/0/inFeatures": 31},
        {"layer/0/neuron/type": "SDNN"},
        {"layer/0/neuron/iDecay": 0},
        {"layer/0/neuron/iDecay": 4097},
        {"layer/0/neuron/iDecay": np.arange(1, 40)},
        {"layer/0/neuron/vDecay": -1},
        {"layer/0/neuron/vDecay": None},
        {"layer/0/neuron/vThMant": 1 << 18},
        {"layer/0/neuron/refDelay": 3},
        {"layer/0/neuron/gradedSpike": True},
        {"layer/0/neuron/messageBits": 8},
        {"layer/0/neuron/messageBits": "8"},
        {"layer/0/neuron/weight_exp": 2.0},
        {"layer/0/delay": np.full(40, -1.0)},
        {"layer/0/delay": np.ones(7)},
        {"layer/0/delay": np.full(40, 0.5)},
        {"layer/0/bias": np.ones(7)},
        {"layer/0/bias": np.full(40, 40_000.0)},
        {"layer/2/type": np.array([b"flatten"], "S10")},
        {"layer/3/type": np.array([b"flatten"], "S10")},
        {"layer/one": 1},
        {"rsc/program": "{}"},
        {"rsc/program": 3},
        {"rsc/program": '{"input": ""}'},
    ],
    ids=str,
)
def test_impossible_fields_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(InputRefused):
        read_netx(netx_files.dense_file(tmp_path / "a.net", **changes))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("1/weight", np.ones((4, 3, 3, 2))),
        ("1/weight", np.ones((4, 2, 3))),
        ("1/stride", np.array([0, 1])),
        ("1/stride", np.array([1, 1, 1])),
        ("1/padding", np.array([200, 0])),
        ("1/groups", 3),
        ("1/groups", 1 << 40),
        ("1/shape", np.array([4, 3, 6])),
        ("1/kernelSize", np.array([3, 3])),
        ("1/bias", np.ones((4, 3, 5))),
        ("1/delay", np.ones(4)),
        ("1/neuron/vThMant", np.arange(5)),
        ("0/shape", np.array([96])),
        ("0/shape", np.array([2, 1 << 20, 1 << 20])),
        ("0/neuron/type", "netx_files.CUBA"),
        ("3/type", np.array([b"input"], "S10")),
        ("3/type", np.array([b"conv"], "S10")),
        ("4/type", np.array([b"conv"], "S10")),
    ],
)
def test_impossible_convolutions_are_refused(tmp_path: Path, name: str, value: Any) -> None:
    path = netx_files.written(netx_files.images(), tmp_path)
    with h5py.File(path, "a") as file:
        if f"layer/{name}" in file:
            del file[f"layer/{name}"]
        file.create_dataset(f"layer/{name}", data=value)
    with pytest.raises(InputRefused):
        read_netx(path)


HOSTILE: tuple[Any, ...] = (
    -1, 3, 1 << 62, np.nan, 1e300, True, b"\xff", np.zeros(0), np.ones((1,) * 6), np.full(3, 1 << 30),
)  # fmt: skip


@pytest.mark.usefixtures("quick")
@pytest.mark.filterwarnings("ignore:.*netx clips")
def test_any_value_in_any_field_gives_layers_or_an_error(tmp_path: Path) -> None:
    images = netx_files.images()
    short = dataclasses.replace(images, layers=images.layers[1:3], outputs=(("o", ("c",)),))
    short = dataclasses.replace(
        short, inputs=(dataclasses.replace(images.inputs[0], name="a", shape=(4, 3, 5)),)
    )
    path = netx_files.written(short, tmp_path)
    names: list[str] = []
    with h5py.File(path) as file:
        file.visit(names.append)
    content = path.read_bytes()
    outcomes = {"read": 0, "refused": 0}
    for name in names:
        for value in HOSTILE:
            path.write_bytes(content)
            with h5py.File(path, "a") as file:
                del file[name]
                file.create_dataset(name, data=value)
            try:
                read_netx(path)
                outcomes["read"] += 1
            except RscError:
                outcomes["refused"] += 1
    assert outcomes["refused"] > 5 * outcomes["read"]


def test_a_convolution_needs_the_shape_of_its_input(tmp_path: Path) -> None:
    path = netx_files.written(netx_files.images(), tmp_path)
    with h5py.File(path, "a") as file:
        del file["rsc"], file["layer/0"]
        for i in range(1, 6):
            file.move(f"layer/{i}", f"layer/{i - 1}")
    with pytest.raises(UnsupportedNode, match="input_shape"):
        read_netx(path)
    found = read_netx(path, input_shape=(2, 6, 8), payload_max=9)
    for a, b in zip(netx_files.images().layers, found.layers, strict=True):
        np.testing.assert_array_equal(a.connections[0].weight, b.connections[0].weight)
    assert found.layers[0].connections[0].graded


def test_unsafe_and_damaged_files_are_refused(tmp_path: Path) -> None:
    good = netx_bytes(variant()())
    cases: dict[str, bytes] = {"empty": b"", "text": b"not HDF5", "cut": good[: len(good) // 2]}
    for i, at in enumerate(range(100, len(good), len(good) // 5)):
        cases[f"flipped{i}"] = good[:at] + bytes(b ^ 0x5A for b in good[at : at + 9]) + good[at + 9 :]
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        try:
            read_netx(tmp_path / name)
        except RscError:
            continue
        assert name.startswith("flipped")
    with h5py.File(tmp_path / "other", "w") as file:
        file["node"] = 1
    links = {"soft": h5py.SoftLink("/layer/1/weight"), "external": h5py.ExternalLink("/etc/passwd", "/")}
    for name, link in links.items():
        path = netx_files.dense_file(tmp_path / name, **{"layer/0/weight": None})
        with h5py.File(path, "a") as file:
            file["layer/0/weight"] = link
        with pytest.raises(InputRefused, match="soft or external link"):
            read_netx(path)
    huge = netx_files.dense_file(tmp_path / "huge", **{"layer/0/weight": None})
    with h5py.File(huge, "a") as file:
        file.create_dataset("layer/0/weight", (40, 1 << 30), "f4")
    with pytest.raises(InputRefused, match="declares more data"):
        read_netx(huge)
    for name in ("other", "missing"):
        with pytest.raises(InputRefused) as caught:
            read_netx(tmp_path / name)
        assert "NIR" not in str(caught.value)
    with pytest.raises(MalformedFile):
        read_netx(tmp_path / "text")
