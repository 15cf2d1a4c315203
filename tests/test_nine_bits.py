"""Weights of 9 bits: one connection for each sign, whose integers Lava runs as they are."""

from __future__ import annotations

import dataclasses
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from lava_networks import lif, program
from raw_lava import Network, run

sys.path.append(str(Path(__file__).parent / "conformance"))

from loihi_lava import compared, drawn

from rsc.errors import UnsupportedNode
from rsc.export.chips import weight_bits
from rsc.export.loihi import lower, quantisation_table
from rsc.export.netx import netx_bytes
from rsc.export.quantise import joined
from rsc.hw_targets import deploy, lava_env, lava_layout
from rsc.hw_targets.loihi import LoihiModel
from rsc.layered import CONSTANT, Connection, LayeredProgram
from rsc.pipelined import padded, pipelined
from rsc.program import Program, Semantics
from rsc.quantiser import Quantiser
from rsc.results import Probe

STATUS = lava_env.status()


def needs_lava(test: Any) -> Any:
    """A test that runs Lava."""
    reason = f"{STATUS.reason} {STATUS.fix}"
    return pytest.mark.lava(pytest.mark.skipif(not STATUS.available, reason=reason)(test))


STEPS = 14


def lifs(n: int, **changes: Any) -> nir.LIF:
    values = {"tau": 4e-3, "r": 4.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0} | changes
    fields: Any = {k: np.full(n, v) for k, v in values.items()}
    return nir.LIF(**fields)


def chain(shape: tuple[int, ...], end: tuple[int, ...], bits: int, **between: Any) -> Program:
    nodes: dict[str, Any] = {"input": nir.Input({"input": np.array(shape)}), **between}
    nodes["output"] = nir.Output({"output": np.array(end)})
    graph = nir.NIRGraph(nodes, list(pairwise(nodes)), type_check=False)
    return Program(graph, Semantics(1e-3), quantiser=Quantiser(bits))


def dense_net(bits: int, weight: np.ndarray) -> Program:
    return chain(weight.shape[1:], weight.shape[:1], bits, fc=nir.Linear(weight), n=lifs(len(weight)))


def states(model: Any, frames: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every s, u and v."""
    names = frozenset(layer.name for layer in model.layered.layers)
    found = model._steps(frames, Probe(spikes=names, states=names))
    spikes = {f"{k}.s": v for k, v in found.spikes.rasters.items()}
    return spikes | found.spikes.states | {f"output {k}": v for k, v in found.outputs.items()}


def test_weights_are_whole_numbers_up_to_255_and_half_as_wrong() -> None:
    weight = np.random.default_rng(1).normal(size=(40, 30))
    weight[0, 0] = -np.abs(weight).max() * 1.1
    tables = {}
    for bits in (8, 9):
        net = dense_net(bits, weight)
        exact, integers = lower(net, "float"), lower(net)
        (tables[bits],) = quantisation_table(exact, integers, net.quantiser)
        assert tables[bits].weight_error_max <= 2 ** (8 - bits) / tables[bits].scale * 1.0001
    assert (tables[9].weight_min, tables[9].saturations) == (-255, 0)
    assert 0.35 < tables[9].weight_error_mean / tables[8].weight_error_mean < 0.65
    layer = lower(dense_net(9, weight)).layers[0]
    above, below = layer.connections
    assert above.weight.min() == 0 == below.weight.max()
    assert (above.weight % 2).any()
    assert (below.weight % 2).any()
    whole = joined(lower(dense_net(9, weight), "float").layers[0], layer).connections[0].weight
    assert np.array_equal(whole, np.rint(layer.scale * weight))


def test_weights_of_one_sign_stay_one_connection() -> None:
    for sign in (1, -1):
        (connection,) = lower(dense_net(9, sign * np.linspace(0, 1, 12).reshape(3, 4))).layers[0].connections
        assert np.abs(connection.weight).max() == 255


def test_each_connection_fits_the_eight_bits_of_a_synapse_on_both_chips() -> None:
    weight = np.random.default_rng(2).normal(size=(40, 30))
    exact, layer = (lower(dense_net(9, weight), kind).layers[0] for kind in ("float", "integer"))
    assert [weight_bits(c.weight)[0] for c in layer.connections] == [8, 8]
    assert weight_bits(joined(exact, layer).connections[0].weight)[0] == 9


def test_netx_says_why_it_cannot_hold_them() -> None:
    with pytest.raises(UnsupportedNode, match="weights of 9 bits need; netx has one"):
        netx_bytes(lower(dense_net(9, np.array([[1.0, -0.5]]))))


@pytest.mark.parametrize(
    ("values", "mode"),
    [
        ([-256, 254], "MIXED"),
        ([0, 254], "MIXED"),
        ([0, 0], "MIXED"),
        ([1, 255], "EXCITATORY"),
        ([-255, -1], "INHIBITORY"),
        ([-255, 2], ""),
        ([-256, 255], ""),
        ([0, 256], ""),
        ([0, -257], ""),
    ],
)
def test_the_sign_mode_is_the_one_that_keeps_the_weights(values: list[int], mode: str) -> None:
    assert lava_layout.sign_mode(np.array(values)) == mode


def test_every_kind_of_process_is_told_its_sign_mode() -> None:
    weight = np.array([[1, 3], [0, 255]], np.int32)
    layer, kernel = lif("n", (2,)), np.array([-1, -255], np.int32).reshape(1, 1, 1, 2)
    c = Connection("x", "dense", weight, (2,))
    wait = np.asarray(1, np.int32)
    conv = Connection("x", "conv", kernel << 3, (1, 2, 3))
    made = [
        lava_layout.synapses(c, layer, True),
        lava_layout.synapses(c, layer, True, waits=wait),
        lava_layout.synapses(dataclasses.replace(c, source=CONSTANT, weight=weight[:, 1:]), layer, True),
    ]
    assert [(s.kind, s.fields["sign_mode"]) for s in made] == [
        ("dense", "EXCITATORY"),
        ("delay_dense", "EXCITATORY"),
        ("dense", "EXCITATORY"),
    ]
    image = lif("n", (1, 2, 2))
    made = [
        lava_layout.synapses(conv, image, True, matrices=True),
        lava_layout.synapses(conv, image, True, waits=wait),
    ]
    assert [(s.kind, s.fields["sign_mode"], s.fields["weight_exp"]) for s in made] == [
        ("sparse", "INHIBITORY", 3),
        ("delay_sparse", "INHIBITORY", 3),
    ]
    assert lava_layout.synapses(conv, image, True).kind == "conv"  # keeps any weight


# --- against plain Lava, process by process

EDGES = np.array([[-257, -256, -255, -254, -3, -1, 0, 1, 3, 254, 255, 256]])
KEPT = {  # what each mode and number of bits leaves of EDGES: ends clipped, last bits cut off
    ("MIXED", 8): [-256, -256, -256, -254, -4, -2, 0, 0, 2, 254, 254, 254],
    ("MIXED", 9): [-256, -256, -255, -254, -3, -1, 0, 1, 3, 254, 255, 255],
    ("EXCITATORY", 8): [0, 0, 0, 0, 0, 0, 0, 1, 3, 254, 255, 255],
    ("INHIBITORY", 8): [-255, -255, -255, -254, -3, -1, 0, 0, 0, 0, 0, 0],
}


def one_hot() -> Network:
    """A neuron for each mode that shows its weight t at step t + 1, as u forgets at once."""
    net = Network(EDGES.size + 1)
    net.source("x", np.eye(EDGES.size + 1, EDGES.size))
    for kind in ("Dense", "Sparse"):
        for mode, bits in KEPT:
            name = f"{kind} {mode} {bits}"
            net.lif(name, (1,), du=4095, dv=4096, vth=131071)
            net.connect(kind, "x", name, EDGES, sign_mode=mode, num_weight_bits=bits)
    return net


def nine(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Weights of 9 bits, most of them odd."""
    return np.where(rng.random(shape) < 0.1, 0, 2 * rng.integers(-128, 128, shape) + 1).astype(np.int32)


def split(c: Connection) -> list[Connection]:
    return [dataclasses.replace(c, weight=w) for w in (c.weight.clip(min=0), c.weight.clip(max=0))]


def network(kind: str, rng: np.random.Generator) -> tuple[LayeredProgram, np.ndarray, list[Network]]:
    """Two layers with biases, recurrent; plain Lava with a process for each sign, and with 9 mixed bits."""
    w = [nine(rng, 5, 6), nine(rng, 4, 5), nine(rng, 4, 4)]
    late = rng.integers(1, 5, (4, 5)) if "Delay" in kind else np.ones((4, 5), int)
    c = [Connection("x", "dense", w[0], (6,), 1), Connection("a", "dense", w[1], (5,))]
    c.append(Connection("b", "dense", w[2], (4,), delay=np.asarray(1, np.int32)))
    c[1] = dataclasses.replace(c[1], delay=late.astype(np.int32))
    bias: dict[str, Any] = {"du": 3000, "dv": 200, "vth": 300, "bias_exp": 6}
    mantissa: Any = {name: rng.integers(-9, 90, n) for name, n in (("a", 5), ("b", 4))}
    a = lif("a", (5,), *split(c[0]), **bias, bias_mant=mantissa["a"])
    b = lif("b", (4,), *split(c[1]), *split(c[2]), **bias, bias_mant=mantissa["b"])
    x = rng.random((STEPS, 6)) < 0.3
    nets = []
    for signs in (("EXCITATORY", "INHIBITORY"), ("MIXED",))[: 1 + ("Dense" in kind)]:
        net = Network(STEPS)
        net.source("x", x)
        for layer in (a, b):
            net.lif(layer.name, layer.shape, **bias, bias_mant=mantissa[layer.name])
        ways = (("x", "a", w[0], 0, 1), ("a", "b", w[1], late - 1, 0), ("b", "b", w[2], 0, 0))
        for source, target, weight, waits, exponent in ways:
            for sign in signs:
                kept = {"EXCITATORY": weight.clip(min=0), "INHIBITORY": weight.clip(max=0)}.get(sign, weight)
                options = {"sign_mode": sign, "weight_exp": exponent}
                options |= {"num_weight_bits": 9} if sign == "MIXED" else {}
                net.connect(kind, source, target, kept, waits if "Delay" in kind else None, **options)
        nets.append(net)
    return program(a, b, shape=(6,)), x, nets


KINDS = ("Dense", "DelayDense", "Sparse", "DelaySparse")


@pytest.fixture(scope="module")
def plain_lava() -> tuple[dict[str, np.ndarray], list[Any]]:
    """What Lava shows of `one_hot`, and each network with what Lava does, all in one interpreter."""
    built = [network(kind, np.random.default_rng(70 + i)) for i, kind in enumerate(KINDS)]
    edges, *found = run([one_hot(), *(net for *_, nets in built for net in nets)])
    left = iter(found)
    return edges, [(layered, x, [next(left) for _ in nets]) for layered, x, nets in built]


@needs_lava
def test_lava_cuts_the_last_bit_of_mixed_weights_and_keeps_it_where_all_have_one_sign(
    plain_lava: Any,
) -> None:
    """With `num_weight_bits` of 9, which no chip is known to have, its Dense keeps it in mixed ones, too."""
    for kind in ("Dense", "Sparse"):
        for (mode, bits), kept in KEPT.items():
            assert (plain_lava[0][f"{kind} {mode} {bits}.u"][1:, 0] / 64).tolist() == kept, (mode, bits)


@needs_lava
@pytest.mark.parametrize("which", range(len(KINDS)), ids=KINDS)
def test_the_integer_model_is_plain_lava_with_a_process_for_each_sign(which: int, plain_lava: Any) -> None:
    """Also Lava with one mixed process of 9 bits, which says the same in other words."""
    layered, x, found = plain_lava[1][which]
    frames = padded(layered, {"x": x[:, None].astype(np.float32)})
    ours = states(LoihiModel(None, pipelined(layered), torch.device("cpu")), frames)
    assert len(found) == 1 + ("Dense" in KINDS[which])
    for theirs in found:
        for key, values in theirs.items():
            np.testing.assert_array_equal(ours[key][:STEPS, 0], values, err_msg=key)
        assert 0.02 < theirs["b.s"].mean() < 0.9


# --- against target lava


def kernels() -> list[LayeredProgram]:
    """Convolutions, pooled and late, and a matrix behind them."""
    rng = np.random.default_rng(80)

    def conv(weight: np.ndarray, size: tuple[int, int], padding: int) -> nir.Conv2d:
        return nir.Conv2d(size, weight, 1, padding, 1, 1, np.zeros(len(weight)))

    def image(*shape: int) -> nir.LIF:
        fields: Any = {k: np.full(shape, v) for k, v in (("tau", 4e-3), ("r", 4.0), ("v_threshold", 0.7))}
        return nir.LIF(v_leak=np.zeros(shape), v_reset=np.zeros(shape), **fields)

    first, second = rng.normal(0, 0.5, (3, 2, 3, 3)), rng.normal(0, 0.5, (4, 3, 2, 2))
    pool = nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))
    late = nir.Delay(np.full((3, 6, 6), 2e-3))
    tail: dict[str, Any] = {"n2": image(4, 2, 2), "f": nir.Flatten({"input": np.array([4, 2, 2])}, 0, -1)}
    tail |= {"fc": nir.Linear(rng.normal(0, 0.5, (5, 16))), "n3": lifs(5)}
    shape = (2, 6, 6)
    pooled = chain(
        *(shape, (5,), 9),
        c1=conv(first, (6, 6), 1),
        n1=image(3, 6, 6),
        p=pool,
        c2=conv(second, (3, 3), 0),
        **tail,
    )
    delayed = chain(
        *(shape, (4, 5, 5), 9),
        c1=conv(first, (6, 6), 1),
        n1=image(3, 6, 6),
        d=late,
        c2=conv(second, (6, 6), 0),
        n2=image(4, 5, 5),
    )
    return [lower(pooled), lower(delayed)]


@needs_lava
def test_random_graphs_and_kernels_on_lava() -> None:
    parts = [*drawn(12, Quantiser(9)), *kernels()]
    weights = [c.weight for part in parts for layer in part.layers for c in layer.connections]
    assert sum(bool((w % 2).any()) for w in weights) > 15
    assert any(c.kind == "conv" and c.delay.any() for layer in parts[-1].layers for c in layer.connections)
    assert compared(parts, np.random.default_rng(81)) > 2_000


@needs_lava
def test_calibrated_scales_of_nine_bits_run_alike_on_both_targets() -> None:
    from rsc.calibration import calibrate

    rng = np.random.default_rng(82)
    net, x = dense_net(8, rng.normal(size=(8, 30))), (rng.random((20, 4, 30)) < 0.1).astype(np.float32)
    found = calibrate(net, x, mode="mse", bits=9)
    assert found.program.quantiser is not None
    assert found.program.quantiser.bits == 9
    with deploy(found.program, "loihi") as loihi, deploy(found.program, "lava") as lava:
        ours, theirs = (m.run_frames(x, Probe.everything(("n",))) for m in (loihi, lava))
    for key in ("n.u", "n.v"):
        np.testing.assert_array_equal(ours.spikes.states[key], theirs.spikes.states[key])
    np.testing.assert_array_equal(ours.outputs["output"], theirs.outputs["output"])
