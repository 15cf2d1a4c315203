"""The published vectors on every target: spikes bit for bit, counts to the integer."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from pathlib import Path

import msgspec
import nir
import numpy as np
import pytest
from energy_vectors import (
    B1,
    W1,
    W4,
    XD,
    XE,
    T,
    closed_form,
    conv_node,
    feedback_program,
    program,
    simulate,
    weights,
    wrap,
)

from rsc.energy import Counts, count, load_profile, report_of
from rsc.energy.edges import SPIKING, open_net
from rsc.export.reader import read_graph
from rsc.hw_targets import TARGETS, deploy, get_target
from rsc.program import Program, Semantics
from rsc.results import Probe, RunResult

SHARED = Path(__file__).parent.parent.parent / "shared" / "conformance"
VECTORS = {
    "events": (
        XE,
        True,
        {"conv1": (9140, 8611, 0, 303), "conv2": (534, 506, 0, 64), "fc": (170, 160, 0, 17)},
    ),
    "direct": (
        XD,
        False,
        {"conv1": (0, 0, 30976, 664), "conv2": (960, 893, 0, 112), "fc": (210, 192, 0, 21)},
    ),
}


@pytest.fixture(params=[pytest.param(t, marks=pytest.mark.lava) if t == "lava" else t for t in TARGETS])
def on(request: pytest.FixtureRequest) -> str:
    """Every target that can run here."""
    missing = get_target(request.param).available()
    if missing is not None:
        pytest.skip(f"{request.param}: {missing.reason} {missing.fix}")
    return request.param


def run(net: Program, on: str, frames: np.ndarray | dict[str, np.ndarray]) -> RunResult:
    spiking = [n for n, node in open_net(net).nodes.items() if isinstance(node, SPIKING)]
    with deploy(net, on) as model:
        return model.run_frames(frames, Probe(spikes=frozenset([*net.inputs, *spiking])))


def table(counts) -> dict[str, tuple[int, ...]]:
    keys = ("sop", "sop_nz", "mac", "events_in")
    return {n.node: tuple(int(n.per_pass(k).sum()) for k in keys) for n in counts.nodes if n.params}


# nJ of accumulates, weight reads and accumulators at fp32, all buffers 8 kB. The direct vector has 960 + 210
# accumulates, at 0.9 pJ each, 32 bits read and 2 * 32 bits of accumulator at 10 / 64 pJ per bit
GOLDEN = {"events": (8.86, 49.22, 98.44), "direct": (1.053, 5.85, 11.7)}


def synaptic_energy(counts: Counts, nodes: Iterable[str]) -> tuple[float, ...]:
    """What the events of these nodes cost by class; multiplications of graded input are left out."""
    profile = load_profile("h45-fp32-sram")
    assert profile.memory is not None
    memory = msgspec.structs.replace(profile.memory, buffer_bytes=8192)
    (priced,) = report_of(counts, [msgspec.structs.replace(profile, memory=memory)]).priced
    fed = {n.node for n in counts.nodes if n.binary} & set(nodes)
    parts = [part for layer in priced.layers if layer.node in fed for part in layer.parts]
    classes = ("synapses", "weights", "accumulators")
    return tuple(sum(p.energy.nominal_nj for p in parts if p.name == c) for c in classes)


def loihi_energy(counts: Counts) -> float:
    (priced,) = report_of(counts, ["loihi1-davies2018"]).priced
    assert priced.energy is not None
    return priced.energy.nominal_nj


def refused(net: Program, on: str) -> bool:
    return any(issue.severity == "error" for issue in get_target(on).check(net))


@pytest.mark.parametrize("vector", VECTORS)
def test_vectors_are_exact_on_every_target(on: str, vector: str) -> None:
    """As written where a target subtracts its threshold and fires at ">="; everywhere with it fed back."""
    frames, events, expected = VECTORS[vector]
    want = simulate(frames)
    forms = [feedback_program(1.0 if events else 64.0)]
    forms += [] if refused(program(), on) else [program()]
    assert len(forms) == 2 or on not in ("reference", "torch")
    for net in forms:
        result = run(net, on, frames)
        for name, spikes in (("lif1", want.s1), ("lif2", want.s2)):
            assert np.array_equal(result.spikes.rasters[name], spikes != 0)
        assert np.array_equal(result.outputs["output"].sum(0), want.out.sum(0))
        counts = count(net, result.spikes, T, on, input_events=events)
        found = table(counts)
        assert {k: found[k] for k in expected} == expected
        assert synaptic_energy(counts, expected) == pytest.approx(GOLDEN[vector], abs=0.0051)
        if net == program():
            assert loihi_energy(counts) == pytest.approx(428.9 if events else 226.5, abs=0.051)
            touched = {n.node: int(n.per_pass("updates_active").sum()) for n in counts.nodes if n.neurons}
            assert touched == ({"lif1": 2040, "lif2": 269} if events else {"lif1": 2048, "lif2": 354})


def chain(nodes: dict, shape: tuple[int, ...] = (2, 8, 8)) -> Program:
    """input -> nodes in order -> output, with rules that every target has."""
    ends = {"input": nir.Input({"input": np.array(shape)}), "output": nir.Output({"output": None})}  # type: ignore[dict-item]
    graph = ends | nodes
    names = ["input", *nodes, "output"]
    made = wrap(graph, list(itertools.pairwise(names)))
    return dataclasses.replace(made, semantics=Semantics(dt=1e-3, reset="value", comparison=">"))


def quiet(shape: tuple[int, ...]) -> nir.LIF:
    """Neurons of no interest, as integer targets want them after a convolution."""
    one = np.ones(shape)
    return nir.LIF(tau=2e-3 * one, r=2 * one, v_leak=0 * one, v_threshold=one)


def operators() -> dict[str, tuple[Program, int]]:
    """The published operators with their counts."""
    zero, two = np.zeros(4), np.array([2, 2])
    grouped = weights((4, 1, 3, 3), 37, 11, 16)
    pool = nir.AvgPool2d(kernel_size=two, stride=two, padding=np.array([0, 0]))
    return {
        "grouped": (
            chain({"conv": conv_node(grouped, zero, (8, 8), 1, 1, 1, 2), "lif": quiet((4, 8, 8))}),
            4570,
        ),
        "dilated": (chain({"conv": conv_node(W1, zero, (8, 8), 1, 2, 2), "lif": quiet((4, 8, 8))}), 7580),
        "pooled": (
            chain({"pool": pool, "conv": conv_node(W1, B1, (4, 4), 1, 1), "lif": quiet((4, 4, 4))}),
            7580,
        ),
        "merged": (merged(), 18280),
    }


def merged() -> Program:
    """Two inputs that meet in front of a convolution (a residual addition of spikes)."""
    nodes = {
        "a": nir.Input({"input": np.array([2, 8, 8])}),
        "b": nir.Input({"input": np.array([2, 8, 8])}),
        "conv": conv_node(W1, B1, (8, 8), 1, 1),
        "lif": quiet((4, 8, 8)),
        "output": nir.Output({"output": None}),  # type: ignore[dict-item]
    }
    edges = [("a", "conv"), ("b", "conv"), ("conv", "lif"), ("lif", "output")]
    made = wrap(nodes, edges)
    return dataclasses.replace(made, semantics=Semantics(dt=1e-3, reset="value", comparison=">"))


# (operator, target) -> why it has no form there
REFUSED = {("merged", "norse"): "it takes one input"}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("operator", ["grouped", "dilated", "pooled", "merged"])
def test_operators_are_exact_on_every_target(on: str, operator: str) -> None:
    net, expected = operators()[operator]
    assert refused(net, on) == ((operator, on) in REFUSED)
    if refused(net, on):
        return
    frames = {"a": XE, "b": XE[..., ::-1]} if operator == "merged" else XE
    counts = count(net, run(net, on, frames).spikes, T, on, input_events=True)
    assert table(counts)["conv"][0] == expected


def test_recurrent_events_are_delivered_alike_on_every_target(on: str) -> None:
    """fc -> LIF(10) with its own spikes of the step before, fed back by a matrix."""
    one = np.ones(10)
    nodes = {
        "input": nir.Input({"input": np.array([54])}),
        "fc": nir.Linear(weights((10, 54), 29, 2, 16)),
        "lif": nir.LIF(tau=2e-3 * one, r=2 * one, v_leak=0 * one, v_threshold=one / 4),
        "rec": nir.Linear(W4),
        "output": nir.Output({"output": np.array([10])}),
    }
    edges = [("input", "fc"), ("fc", "lif"), ("lif", "rec"), ("rec", "lif"), ("lif", "output")]
    semantics = Semantics(dt=1e-3, reset="value", comparison=">")
    net = Program(nir.NIRGraph(nodes, edges, type_check=False), semantics)
    frames = closed_form((T, 2, 54), 7919, 13, 101, lambda r: (r < 20) * 1.0)
    result = run(net, on, frames)
    loop = count(net, result.spikes, T, on, input_events=True)["rec"]
    spikes = result.spikes.rasters["lif"]
    assert spikes[-1].any()
    assert loop.per_pass("sop").tolist() == (10 * spikes[:-1].sum((0, 2))).tolist()
    assert loop.per_pass("undelivered").tolist() == spikes[-1].sum(1).tolist()


def test_a_transposed_convolution_counts_as_the_matrix_that_nir_has_for_it() -> None:
    """It arrives as a matrix with zeros, which counts of non-zero weights leave out."""
    import torch

    kernel = torch.ones(2, 4, 3, 3, dtype=torch.float64)
    units = torch.eye(128, dtype=torch.float64).reshape(128, 2, 8, 8)
    made = torch.nn.functional.conv_transpose2d(units, kernel, stride=2, padding=1, output_padding=1)
    matrix = made.reshape(128, -1).T.numpy()
    flat = nir.Flatten({"input": np.array([2, 8, 8])}, 0)
    net = chain({"flatten": flat, "up": nir.Linear(np.ascontiguousarray(matrix))})
    found = count(net, run(net, "reference", XE).spikes, T, input_events=True)["up"]
    assert int(found.per_pass("sop_nz").sum()) == 10020
    assert int(found.per_pass("sop").sum()) == 303 * 4 * 16 * 16


FILES = {
    "02_cnn/cnn_sinabs.nir": (np.random.default_rng(3).random((8, 2, 2, 34, 34)) < 0.2, "steps"),
    "03_rnn/braille_noDelay_bias_zero.nir": (np.random.default_rng(4).random((60, 2, 12)) < 0.3, "s"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("on", ["reference", "torch"])
def test_files_of_other_tools_count_like_an_event_by_event_walk(file: str, on: str) -> None:
    if not (SHARED / file).is_file():
        pytest.skip(f"There is no folder {SHARED.name} with recordings beside the checkout.")
    from rsc.feeding import Reading

    frames, unit = FILES[file]
    reading = Reading(dt=1e-4, time_unit=unit)  # type: ignore[arg-type]
    net = reading.adjusted(Program.from_graph(read_graph(SHARED / file), semantics=Semantics(1e-4)))
    result = run(net, on, frames.astype(np.float32))
    counts = count(net, result.spikes, len(frames), on, input_events=True)
    walked = by_walk(net, result)
    assert sum(walked.values()) > 0
    assert {n.node: int(n.per_pass("sop").sum()) for n in counts.nodes if n.params} == walked


def by_walk(net: Program, result: RunResult) -> dict[str, int]:
    """Operations per weighted node: the sum of what it makes of the spikes with all weights 1 and no bias."""
    import torch
    from torch.nn import functional as F

    graph = open_net(net)
    totals = {}
    for name, edges in graph.arrivals.items():
        node = graph.nodes[name]
        if not isinstance(node, nir.Conv2d | nir.Affine | nir.Linear):
            continue
        (edge,) = edges
        spikes = result.spikes.rasters[edge.source].astype(np.float64)
        spikes = spikes[: len(spikes) - edge.lag]
        x = torch.from_numpy(spikes.reshape(-1, *spikes.shape[2:]))
        for passed in edge.path:
            other = graph.nodes[passed]
            if isinstance(other, nir.SumPool2d):
                kernel, stride = tuple(map(int, other.kernel_size)), tuple(map(int, other.stride))
                x = F.avg_pool2d(x, kernel, stride, divisor_override=1)  # type: ignore[arg-type]
            elif isinstance(other, nir.Flatten):
                x = x.flatten(1)
        ones = torch.ones(tuple(node.weight.shape), dtype=torch.float64)
        if isinstance(node, nir.Conv2d):
            pads = tuple(int(p) for p in np.atleast_1d(node.padding))
            made = F.conv2d(x, ones, None, tuple(int(s) for s in np.atleast_1d(node.stride)), pads)
        else:
            made = x.flatten(1) @ ones.T
        totals[name] = int(made.sum())
    return totals
