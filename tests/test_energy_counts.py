"""Operation counts against published vectors and an event-by-event brute force."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools

import nir
import numpy as np
import pytest
from energy_vectors import (
    B1,
    SEMANTICS,
    W1,
    W3,
    XD,
    XE,
    Run,
    T,
    conv_node,
    lif_node,
    program,
    recurrent_program,
    simulate,
    simulate_recurrent,
    weights,
    wrap,
)

from rsc.energy import ann_macs, count, sop_by_step
from rsc.errors import InputRefused, UnsupportedNode, UsageError
from rsc.program import EncoderSpec, Program, Semantics
from rsc.results import SpikeRecord

DIRECT = EncoderSpec("direct", T)


@pytest.fixture(scope="module")
def events() -> Run:
    return simulate(XE)


@pytest.fixture(scope="module")
def direct() -> Run:
    return simulate(XD)


def sums(counts, field: str) -> dict[str, int]:
    return {n.node: int(n.per_pass(field).sum()) for n in counts.nodes if n.params}


def record_of(**rasters: np.ndarray) -> SpikeRecord:
    rasters = {k: np.asarray(r) != 0 for k, r in rasters.items()}
    return SpikeRecord({k: r.sum(0, dtype=np.int64) for k, r in rasters.items()}, rasters)


def counts_only(record: SpikeRecord) -> SpikeRecord:
    return dataclasses.replace(record, rasters={})


def by_events(raster: np.ndarray, w: np.ndarray, s=1, p=0, d=1, g=1, nonzero=False) -> int:
    """Walk over every event [T, B, C, H, W] and every synapse it reaches: out * s = in + p - tap * d."""
    co, per_group, kh, kw = w.shape
    height, width = raster.shape[3:]
    ho, wo = (height + 2 * p - d * (kh - 1) - 1) // s + 1, (width + 2 * p - d * (kw - 1) - 1) // s + 1
    total = 0
    for _, _, c, y, x in zip(*np.nonzero(raster), strict=True):
        group, local = divmod(int(c), per_group)
        for o in range(group * co // g, (group + 1) * co // g):
            for a in range(kh):
                for b in range(kw):
                    (oy, ry), (ox, rx) = divmod(y + p - a * d, s), divmod(x + p - b * d, s)
                    hit = not ry and not rx and 0 <= oy < ho and 0 <= ox < wo
                    total += hit and not (nonzero and w[o, local, a, b] == 0)
    return total


def single(nodes: dict, shape: tuple[int, ...] = (2, 8, 8)) -> Program:
    """input -> nodes in order -> output."""
    chain = {
        "input": nir.Input({"input": np.array(shape)}),
        **nodes,
        "output": nir.Output({"output": None}),  # type: ignore[dict-item]
    }
    names = list(chain)
    return wrap(chain, list(itertools.pairwise(names)))


def test_the_vectors_are_the_published_ones(events: Run, direct: Run) -> None:
    def sha(s: np.ndarray) -> str:
        return hashlib.sha256(np.packbits(s.astype(np.uint8)).tobytes()).hexdigest()[:16]

    assert [sha(events.s1), sha(events.s2)] == ["d79b8f6447da47ae", "be1de1cc89b746d6"]
    assert [sha(direct.s1), sha(direct.s2)] == ["1ed94cca0105a63d", "545cd998650f9dec"]
    expected = [0.375, 1.625, 1.8125, -0.125, 1.125, -0.8125, -0.625, -1.5, -0.25, -0.0625]
    assert events.out.sum(0)[0].tolist() == expected


def test_binary_events_give_exact_accumulates(events: Run) -> None:
    counts = count(program(), events.record(), T, input_events=True)
    assert sums(counts, "sop") == {"conv1": 9140, "conv2": 534, "fc": 170}
    assert sums(counts, "sop_nz") == {"conv1": 8611, "conv2": 506, "fc": 160}
    assert sums(counts, "events_in") == {"conv1": 303, "conv2": 64, "fc": 17}
    assert sums(counts, "mac") == {"conv1": 0, "conv2": 0, "fc": 0}
    assert {n.node: n.synapses * T for n in counts.nodes if n.params} == {
        "conv1": 30976,
        "conv2": 15552,
        "fc": 4320,
    }
    assert {n.node: n.synapses_nz * T for n in counts.nodes if n.params} == {
        "conv1": 29176,
        "conv2": 14688,
        "fc": 4064,
    }
    assert [(n.zero_weights, n.params) for n in counts.nodes if n.params] == [(4, 72), (12, 216), (32, 540)]


def test_direct_coding_multiplies_in_the_first_layer_only(direct: Run) -> None:
    counts = count(program(DIRECT), direct.record(), T)
    assert sums(counts, "sop") == {"conv1": 0, "conv2": 960, "fc": 210}
    assert sums(counts, "sop_nz") == {"conv1": 0, "conv2": 893, "fc": 192}
    first = counts["conv1"]
    assert int(first.per_pass("mac")[0]) == 30976
    assert int(first.per_pass("mac_zero_skipped")[0]) == 19968
    assert int(first.per_pass("mac_nonzero")[0]) == 18816
    assert int(first.per_pass("mac_hoisted")[0]) == 3872
    assert int(first.per_pass("events_in")[0]) == 664


def test_only_latched_encoders_allow_hoisting(direct: Run) -> None:
    fresh = EncoderSpec("rsc2", T, sigma=0.1)
    once = EncoderSpec("rsc1", T, sigma=0.1)
    assert count(program(fresh), direct.record(), T)["conv1"].mac_hoisted is None
    assert count(program(), direct.record(), T)["conv1"].mac_hoisted is None
    assert count(program(once), direct.record(), T)["conv1"].mac_hoisted == 3872


def test_updates_and_touched_neurons(events: Run, direct: Run) -> None:
    e = count(program(), events.record(), T, input_events=True)
    d = count(program(DIRECT), direct.record(), T)
    for counts, touched in ((e, [2040, 269]), (d, [2048, 354])):
        assert [int(counts[n].per_pass("updates")[0]) for n in ("lif1", "lif2")] == [2048, 432]
        assert [int(counts[n].per_pass("updates_active")[0]) for n in ("lif1", "lif2")] == touched


def test_touched_neurons_are_unknown_without_rasters(events: Run) -> None:
    counts = count(program(), events.record(rasters=False), T, input_events=True)
    assert counts["lif1"].updates_active is None
    assert sums(counts, "sop") == {"conv1": 9140, "conv2": 534, "fc": 170}


@pytest.mark.parametrize(
    ("x", "sop", "sop_nz", "emitted", "arrived"), [(XE, 30, 29, 4, 3), (XD, 40, 37, 4, 4)]
)
def test_recurrent_events_count_when_delivered(x, sop: int, sop_nz: int, emitted: int, arrived: int) -> None:
    s2 = simulate(x).s2
    record = record_of(input=s2.reshape(T, 1, 54), lif3=simulate_recurrent(s2))
    loop = count(recurrent_program(), record, T, input_events=True)["rec"]
    assert (int(loop.per_pass("sop")[0]), int(loop.per_pass("sop_nz")[0])) == (sop, sop_nz)
    assert int(loop.per_pass("events_in")[0]) == arrived
    assert int(loop.per_pass("undelivered")[0]) == emitted - arrived
    assert loop.delivered_exact


def test_recurrent_counts_without_raster_are_a_marked_upper_bound() -> None:
    s2 = simulate(XE).s2
    record = counts_only(record_of(input=s2.reshape(T, 1, 54), lif3=simulate_recurrent(s2)))
    loop = count(recurrent_program(), record, T, input_events=True)["rec"]
    assert not loop.delivered_exact
    assert int(loop.per_pass("sop")[0]) == 40


@pytest.mark.parametrize(
    ("shape", "stride", "padding", "dilation", "groups", "published"),
    [
        ((4, 1, 3, 3), 1, 1, 1, 2, 4570),
        ((4, 2, 3, 3), 1, 2, 2, 1, 7580),
        ((4, 2, 3, 3), 3, 2, 1, 1, None),
        ((4, 1, 2, 3), 2, 0, 2, 2, None),
    ],
)
def test_convolutions_against_brute_force(shape, stride, padding, dilation, groups, published) -> None:
    w = weights(shape, 37, 11, 16)
    net = single({"conv": conv_node(w, np.zeros(4), (8, 8), stride, padding, dilation, groups)})
    found = count(net, record_of(input=XE), T, input_events=True)["conv"]
    sop = int(found.per_pass("sop")[0])
    assert sop == by_events(XE, w, stride, padding, dilation, groups)
    assert sop == published or published is None
    assert int(found.per_pass("sop_nz")[0]) == by_events(
        XE, w, stride, padding, dilation, groups, nonzero=True
    )


def test_one_dimensional_and_same_padding() -> None:
    w = weights((3, 2, 3), 5, 2, 16)
    raster = XE[..., 0]
    conv = nir.Conv1d(
        input_shape=8, weight=w, stride=1, padding="same", dilation=1, groups=1, bias=np.zeros(3)
    )
    found = count(single({"conv": conv}, (2, 8)), record_of(input=raster), T, input_events=True)["conv"]
    assert int(found.per_pass("sop")[0]) == by_events_1d(raster, 3, 3)


def by_events_1d(raster: np.ndarray, outputs: int, k: int) -> int:
    size = raster.shape[-1]
    positions = np.nonzero(raster)[-1]
    return sum(outputs for y in positions for a in range(k) if 0 <= y + k // 2 - a < size)


def pooled() -> Program:
    two = np.array([2, 2])
    pool = nir.AvgPool2d(kernel_size=two, stride=two, padding=np.array([0, 0]))
    return single({"pool": pool, "conv": conv_node(W1, B1, (4, 4), 1, 1)})


def test_pooling_is_folded_into_the_synapse_or_graded() -> None:
    folded = count(pooled(), record_of(input=XE), T, input_events=True)
    assert sums(folded, "sop") == {"conv": 7580}
    assert sums(folded, "mac") == {"conv": 0}
    graded = count(pooled(), record_of(input=XE), T, input_events=True, pooling="graded")
    assert sums(graded, "sop") == {"conv": 0}
    assert sums(graded, "mac_zero_skipped") == {"conv": 6044}
    assert int(graded["pool"].per_pass("adds")[0]) == int(XE.sum())


def test_graded_pooling_needs_rasters() -> None:
    with pytest.raises(UsageError, match="coincide"):
        count(pooled(), counts_only(record_of(input=XE)), T, input_events=True, pooling="graded")


def test_merged_branches_deliver_one_by_one_or_as_graded_values() -> None:
    nodes = {
        "a": nir.Input({"input": np.array([2, 8, 8])}),
        "b": nir.Input({"input": np.array([2, 8, 8])}),
        "conv": conv_node(W1, B1, (8, 8), 1, 1),
        "output": nir.Output({"output": None}),  # type: ignore[dict-item]
    }
    net = wrap(nodes, [("a", "conv"), ("b", "conv"), ("conv", "output")])
    record = record_of(a=XE, b=XE[..., ::-1])
    assert sums(count(net, record, T, input_events=True), "sop") == {"conv": 18280}
    merged = count(net, record, T, input_events=True, pooling="graded")
    assert sums(merged, "mac_zero_skipped") == {"conv": 14944}


def test_a_delay_keeps_late_events_from_arriving() -> None:
    delay = nir.Delay(3e-3 * np.ones((2, 8, 8)))
    net = single({"delay": delay, "conv": conv_node(W1, B1, (8, 8), 1, 1)})
    found = count(net, record_of(input=XE), T, input_events=True)["conv"]
    assert int(found.per_pass("sop")[0]) == by_events(XE[:-3], W1, 1, 1)
    assert int(found.per_pass("undelivered")[0]) == int(XE[-3:].sum())
    unknown = count(net, counts_only(record_of(input=XE)), T, input_events=True)["conv"]
    assert not unknown.delivered_exact


def test_spikes_straight_into_neurons_are_one_operation_each() -> None:
    found = count(single({"lif": lif_node((2, 8, 8))}), record_of(input=XE, lif=XE), T, input_events=True)[
        "lif"
    ]
    assert int(found.per_pass("sop")[0]) == 303
    assert found.synapses == 128


def test_pooling_of_graded_values_costs_additions() -> None:
    found = count(pooled(), record_of(input=XD), T)
    assert int(found["pool"].per_pass("adds")[0]) == 128 * T
    assert int(found["conv"].per_pass("mac")[0]) == found["conv"].synapses * T
    assert found["conv"].mac_zero_skipped is None


def test_counts_add_up_over_batches() -> None:
    rng = np.random.default_rng(5)
    x = (rng.random((T, 6, 2, 8, 8)) < 0.2) * 1.0
    net = single({"conv": conv_node(W1, B1, (8, 8), 1, 1)})
    whole = count(net, record_of(input=x), T, input_events=True)["conv"].per_pass("sop")
    parts = [count(net, record_of(input=x[:, i : i + 2]), T, input_events=True)["conv"] for i in (0, 2, 4)]
    assert whole.dtype == np.int64
    assert whole.tolist() == np.concatenate([p.per_pass("sop") for p in parts]).tolist()
    assert whole.tolist() == [by_events(x[:, [i]], W1, 1, 1) for i in range(6)]


def test_steps_add_up_to_the_run(events: Run) -> None:
    steps = sop_by_step(program(), events.record(), T, input_events=True)
    assert {k: int(v.sum()) for k, v in steps.items()} == {"conv1": 9140, "conv2": 534, "fc": 170}
    assert [by_events(XE[[t]], W1, 1, 1) for t in range(T)] == steps["conv1"][:, 0].tolist()
    with pytest.raises(UsageError, match="not recorded"):
        sop_by_step(program(), events.record(rasters=False), T, input_events=True)


def test_nested_graphs_count_like_flat_ones(events: Run) -> None:
    flat = program().graph.nodes
    inner = nir.NIRGraph(
        {
            "in": nir.Input({"input": np.array([2, 8, 8])}),
            "conv": flat["conv1"],
            "lif": flat["lif1"],
            "out": nir.Output({"output": np.array([4, 8, 8])}),
        },
        [("in", "conv"), ("conv", "lif"), ("lif", "out")],
        type_check=False,
    )
    rest = {k: v for k, v in flat.items() if k not in ("conv1", "lif1")}
    edges = [(a, b) for a, b in program().graph.edges if not {a, b} & {"conv1", "lif1"}]
    net = wrap(rest | {"block": inner}, [*edges, ("input", "block"), ("block", "conv2")])
    record = record_of(**{"input": events.x, "block.lif": events.s1, "lif2": events.s2})
    assert sums(count(net, record, T, input_events=True), "sop") == {
        "block.conv": 9140,
        "conv2": 534,
        "fc": 170,
    }


def test_the_ann_needs_one_dense_pass() -> None:
    assert ann_macs(program()) == {"conv1": 3872, "conv2": 1944, "fc": 540}


def test_leading_dimensions_of_a_linear_layer() -> None:
    net = single({"fc": nir.Linear(W3)}, (3, 54))
    assert ann_macs(net) == {"fc": 3 * 540}


def test_unknown_nodes_are_refused() -> None:
    @dataclasses.dataclass(eq=False)
    class Mystery(nir.NIRNode):
        def __post_init__(self) -> None:
            self.input_type = {"input": np.array([2, 8, 8])}
            self.output_type = {"output": np.array([2, 8, 8])}

    with pytest.raises(UnsupportedNode, match="Mystery"):
        count(single({"odd": Mystery()}), record_of(input=XE), T, input_events=True)


def test_records_that_do_not_fit_are_refused(events: Run) -> None:
    good = events.record(rasters=False)

    def broken(**counts: np.ndarray) -> SpikeRecord:
        return SpikeRecord(dict(good.counts) | counts)

    for record, text in (
        (SpikeRecord({k: v for k, v in good.counts.items() if k != "lif2"}), "no spike counts"),
        (broken(lif1=good.counts["lif1"][:, :2]), "needs integers"),
        (broken(lif1=good.counts["lif1"] * 0.5), "needs integers"),
        (broken(lif1=good.counts["lif1"] + T), "binary events"),
        (SpikeRecord(good.counts, {"lif1": np.zeros((T, 1, 4, 8, 8), bool)}), "contradict"),
    ):
        with pytest.raises(InputRefused, match=text):
            count(program(), record, T, input_events=True)
    with pytest.raises(InputRefused, match="at least one step"):
        count(program(), good, 0, input_events=True)
    with pytest.raises(UsageError, match="fold"):
        count(program(), good, T, input_events=True, pooling="max")


def test_frames_stand_in_for_the_raster_of_the_input_and_are_checked(events: Run) -> None:
    record = events.record()
    bare = SpikeRecord(
        {k: v for k, v in record.counts.items() if k != "input"},
        {k: v for k, v in record.rasters.items() if k != "input"},
    )
    counts = count(program(), bare, T, input_events=True, frames=XE)
    assert sums(counts, "sop") == {"conv1": 9140, "conv2": 534, "fc": 170}
    assert int(counts["lif1"].per_pass("updates_active")[0]) == 2040
    with pytest.raises(InputRefused, match="other than 0 and 1"):
        count(program(), record, T, input_events=True, frames=0.5 * XE)
    with pytest.raises(InputRefused, match="no Input"):
        count(program(), record, T, input_events=True, frames={"image": XE})


@pytest.mark.parametrize(
    ("named", "steps"),
    [((("lif3", "rec"),), 1), ((("rec", "lif3"),), 1), ((("lif3", "rec"), ("rec", "lif3")), 2)],
)
def test_named_delays_are_followed(named: tuple[tuple[str, str], ...], steps: int) -> None:
    """Before or behind the matrix, what arrives too late is not counted."""
    s2 = simulate(XE).s2
    spikes = simulate_recurrent(s2)
    record = record_of(input=s2.reshape(T, 1, 54), lif3=spikes)
    net = Program(recurrent_program().graph, Semantics(dt=1e-3, delayed_edges=named))
    loop = count(net, record, T, input_events=True)["rec"]
    assert SEMANTICS.delayed_edges is None
    assert int(loop.per_pass("sop")[0]) == 10 * int(spikes[: T - steps].sum())
