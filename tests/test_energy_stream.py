"""Counting in parts and in chunks gives what counting at once gives, whatever the delays."""

from __future__ import annotations

import dataclasses
import itertools

import nir
import numpy as np
import pytest
from energy_vectors import B1, SEMANTICS, W1, XE, T, conv_node, lif_node, program, simulate, wrap

from rsc.energy import count, count_stream, joined, report_of
from rsc.energy.intervals import data_interval
from rsc.energy.stream import COUNTED
from rsc.errors import InputRefused, UsageError
from rsc.hw_targets import deploy
from rsc.program import Program, Semantics
from rsc.results import Probe

RNG = np.random.default_rng(7)
FRAMES = (RNG.random((13, 3, 2, 8, 8)) < 0.25).astype(np.float32)


def delayed() -> Program:
    """conv -> LIF -> Delay(3) -> conv2 -> LIF with feedback: everything that looks back."""
    nodes = {
        "input": nir.Input({"input": np.array([2, 8, 8])}),
        "conv": conv_node(W1, B1, (8, 8), 1, 1),
        "lif": lif_node((4, 8, 8)),
        "late": nir.Delay(3e-3 * np.ones((4, 8, 8))),
        "mix": conv_node(np.ones((4, 4, 1, 1)) / 4, np.zeros(4), (8, 8), 1, 0),
        "out": lif_node((4, 8, 8)),
        "back": conv_node(np.ones((4, 4, 1, 1)) / 8, np.zeros(4), (8, 8), 1, 0),
        "output": nir.Output({"output": np.array([4, 8, 8])}),
    }
    chain = ["input", "conv", "lif", "late", "mix", "out", "output"]
    edges = [*itertools.pairwise(chain), ("out", "back"), ("back", "out")]
    return wrap(nodes, edges)


def same(a, b) -> None:
    assert [n.node for n in a.nodes] == [n.node for n in b.nodes]
    for left, right in zip(a.nodes, b.nodes, strict=True):
        assert left.delivered_exact
        for field in COUNTED:
            known = [getattr(n, field) is not None for n in (left, right)]
            assert known[0] == known[1], (left.node, field)
            if known[0]:
                assert left.per_pass(field).tolist() == right.per_pass(field).tolist(), (left.node, field)


@pytest.mark.parametrize("net", [program(), delayed()], ids=["vector", "delays"])
@pytest.mark.parametrize("events", [True, False])
@pytest.mark.parametrize("chunk", [1, 2, 5, 13])
def test_chunks_of_steps_add_up_to_the_recording(net: Program, events: bool, chunk: int) -> None:
    names = [n for n in net.node_names if n.startswith("lif") or n == "out"]
    with deploy(net, "torch:float64") as model:
        whole = model.run_frames(FRAMES, Probe(spikes=frozenset([*net.inputs, *names])))
        chunks = (FRAMES[t : t + chunk] for t in range(0, len(FRAMES), chunk))
        streamed = count_stream(net, model, chunks, events, "torch")  # type: ignore[arg-type]
    same(streamed, count(net, whole.spikes, len(FRAMES), "torch", events, frames=FRAMES))


def test_a_stream_keeps_no_more_than_its_reach() -> None:
    from rsc.energy.counts import binary_emitters
    from rsc.energy.edges import open_net
    from rsc.energy.stream import Tally, _reach

    net = delayed()
    opened = open_net(net)
    tally = Tally(net, opened, binary_emitters(opened, net, True), _reach(opened, net.semantics.dt))
    zeros = {n: np.zeros((1, 1, *opened.shapes[n]), bool) for n in tally.watched}
    for _ in range(20):
        tally.add(zeros)
    assert tally.reach == 4
    assert {len(r) for r in tally.tail.values()} == {4}


def test_an_empty_stream_and_false_events_are_refused() -> None:
    with deploy(program(), "torch") as model:
        with pytest.raises(UsageError, match="empty"):
            count_stream(program(), model, [], True)  # type: ignore[arg-type]
        with pytest.raises(InputRefused, match="other than 0 and 1"):
            count_stream(program(), model, [0.5 * XE], True)  # type: ignore[arg-type]


def test_parts_of_samples_are_joined_in_order() -> None:
    net = program()
    with deploy(net, "torch") as model:
        runs = [model.run_frames(FRAMES[:, a:b]) for a, b in ((0, 1), (1, 3), (0, 3))]
    one, two, whole = (count(net, r.spikes, len(FRAMES), "torch", True) for r in runs)
    same(joined([one, two]), whole)
    assert joined([one, two]).input_events.tolist() == whole.input_events.tolist()


def test_runs_of_different_programs_or_steps_are_not_joined() -> None:
    record = simulate(XE).record()
    one = count(program(), record, T, input_events=True)
    other = Program(program().graph, Semantics(dt=2e-3, reset="subtract", comparison=">=", readout="sum"))
    assert SEMANTICS.dt == 1e-3
    for wrong in (
        dataclasses.replace(one, steps=T + 1),
        dataclasses.replace(one, target="other"),
        count(other, record, T, input_events=True),
    ):
        with pytest.raises(UsageError, match="cannot be joined"):
            joined([one, wrong])
    with pytest.raises(UsageError, match="nothing to join"):
        joined([])


def test_seeds_of_one_sample_are_not_independent_samples() -> None:
    values = np.array([10.0, 20.0, 12.0, 22.0])  # two samples, two seeds
    found = data_interval("sop", "operations", values, seeds=2)
    means = data_interval("sop", "operations", np.array([11.0, 21.0]))
    assert (found.n, found.mean, found.ci_low, found.ci_high) == (2, 16.0, means.ci_low, means.ci_high)
    assert found.seed_std == pytest.approx(np.sqrt(2.0))  # pooled within samples
    assert found.seeds == 2
    with pytest.raises(UsageError, match="per sample"):
        data_interval("sop", "operations", values, seeds=3)


def test_seeds_reach_the_report() -> None:
    record = simulate(XE).record()
    counts = count(program(), record, T, input_events=True)
    report = report_of(joined([counts, counts]), ["seneca"], seeds=2)
    assert report.data[0].seed_std == 0
    assert report.data[0].n == 1
    assert report.data[0].ci_low is None
