"""Prices against published golden energies, closed forms and scipy."""

from __future__ import annotations

import itertools
import math

import msgspec
import nir
import numpy as np
import pytest
from energy_vectors import B1, W1, XD, XE, T, conv_node, lif_node, program, simulate, wrap
from scipy import stats

from rsc.energy import (
    EnergyReport,
    Profile,
    bernoulli_encoder,
    energy_report,
    list_profiles,
    load_profile,
)
from rsc.energy.ann import ratio
from rsc.energy.profile import Cost
from rsc.energy.results import AnnComparison, Conventions, PricedProfile
from rsc.energy.terms import Term
from rsc.errors import UsageError
from rsc.program import EncoderSpec
from rsc.results import SpikeRecord

EVENTS, DIRECT = simulate(XE), simulate(XD)


def at_8kb(name: str) -> Profile:
    """The profile with all buffers at 8 kB, 10 pJ per 64 bit."""
    profile = load_profile(name)
    if profile.memory is None:
        return profile
    return msgspec.structs.replace(profile, memory=msgspec.structs.replace(profile.memory, buffer_bytes=8192))


def tve(*names: str, **options) -> EnergyReport:
    return energy_report(
        program(), EVENTS.record(), T, [at_8kb(n) for n in names], input_events=True, **options
    )


def tvd(*names: str, **options) -> EnergyReport:
    net = program(EncoderSpec("direct", T))
    return energy_report(net, DIRECT.record(), T, [at_8kb(n) for n in names], **options)


def classes(priced: PricedProfile) -> dict[str, float]:
    return {c.name: c.energy.nominal_nj for c in priced.breakdown}


def ratios(found: AnnComparison) -> dict:
    return {r.name: r for r in found.ratios}


@pytest.mark.parametrize(
    ("name", "ops", "neuron", "weights", "accumulators", "states"),
    [
        ("h45-fp32-sram", 8.86, 13.64, 49.22, 98.44, 24.80),
        ("h45-fp16-sram", 3.94, 4.71, 24.61, 49.22, 12.40),
        ("h45-int8-sram", 0.98, 8.18, 12.30, 98.44, 24.80),
    ],
)
def test_golden_energies_of_45_nm(name, ops, neuron, weights, accumulators, states) -> None:
    found = classes(tve(name).priced[0])
    expected = {
        "synapses": ops,
        "neurons": neuron,
        "weights": weights,
        "accumulators": accumulators,
        "states": states,
    }
    for group, energy in expected.items():
        assert found[group] == pytest.approx(energy, abs=0.0051), group


@pytest.mark.parametrize(
    ("name", "ann", "reuse", "no_reuse", "ops", "neuron", "low", "high"),
    [
        ("h45-fp32-sram", 29.24, 37.2, 64.8, 0.30, 0.77, 1.49, 5.25),
        ("h45-fp16-sram", 9.53, 13.5, 27.3, 0.41, 0.91, 1.67, 7.03),
        ("h45-int8-sram", 1.91, 3.9, 10.8, 0.52, 4.81, 4.3, 37),
    ],
)
def test_golden_ratios_to_the_ann(name, ann, reuse, no_reuse, ops, neuron, low, high) -> None:
    found = tve(name).ann[0]
    assert found.baseline == name
    assert found.mac == 6356
    assert found.total_reuse is not None
    assert found.total_no_reuse is not None
    assert found.ops.nominal_nj == pytest.approx(ann, abs=0.0051)
    assert found.total_reuse.nominal_nj == pytest.approx(reuse, abs=0.051)
    assert found.total_no_reuse.nominal_nj == pytest.approx(no_reuse, abs=0.051)
    by_name = ratios(found)
    assert by_name["ops"].nominal == pytest.approx(ops, abs=0.0051)
    assert by_name["ops+neurons"].nominal == pytest.approx(neuron, abs=0.0051)
    assert by_name["memory"].nominal is None
    assert by_name["memory"].model_low == pytest.approx(low, abs=0.051 if low > 4 else 0.0051)
    assert by_name["memory"].model_high == pytest.approx(high, abs=0.51 if high > 30 else 0.0051)


def test_golden_energies_of_loihi() -> None:
    davies, sanafe = tve("loihi1-davies2018", "loihi1-sanafe").priced
    assert davies.energy is not None
    assert sanafe.energy is not None
    assert davies.energy.low_nj == pytest.approx((9277 * 23.6 + 2480 * 52 + 384 * 1.7) / 1e3)
    assert davies.energy.nominal_nj == pytest.approx(428.9, abs=0.051)
    assert davies.energy.high_nj == pytest.approx((9844 * 35.5 + 2480 * 81 + 384 * 57.7) / 1e3)
    assert sanafe.energy.nominal_nj == pytest.approx(429.7, abs=0.051)
    direct = [p.energy.nominal_nj for p in tvd("loihi1-davies2018", "loihi1-sanafe").priced if p.energy]
    assert direct == pytest.approx([226.5, 233.3], abs=0.051)


def test_unknown_activity_widens_the_interval_and_is_noted() -> None:
    report = energy_report(
        program(), EVENTS.record(rasters=False), T, ["loihi1-davies2018"], input_events=True
    )
    known = tve("loihi1-davies2018").priced[0].energy
    found = report.priced[0].energy
    assert known is not None
    assert found is not None
    assert found.low_nj <= known.low_nj
    assert found.high_nj >= known.high_nj
    assert sum("synaptic input" in n for n in report.notes) == 2


def test_direct_coding_costs_t_first_layers_unless_hoisted() -> None:
    for name in ("h45-fp32", "h45-fp16", "h45-int8"):
        nominal = ratios(tvd(name).ann[0])["ops"].nominal
        assert nominal == pytest.approx(4.92, abs=0.02)
    hoisted = tvd("h45-fp32", conventions=Conventions(first_layer="hoisted"))
    found = classes(hoisted.priced[0])
    assert found["mac"] == pytest.approx(17.8, abs=0.051)
    assert found["synapses"] == pytest.approx(1.05, abs=0.0051)
    assert ratios(hoisted.ann[0])["ops"].nominal == pytest.approx(0.645, abs=0.001)


def test_a_shift_leak_is_an_addition() -> None:
    report = tve("h45-int8", conventions=Conventions(leak="shift"))
    assert classes(report.priced[0])["neurons"] == pytest.approx(0.74, abs=0.0051)


def test_accumulators_in_registers_cost_nothing() -> None:
    report = tve("h45-fp32-sram", conventions=Conventions(accumulator="gather"))
    assert classes(report.priced[0])["accumulators"] == 0


@pytest.mark.parametrize(("seconds", "energy"), [(10e-6, 8.352e3), (1e-3, 835.2e3)])
def test_static_power_is_a_line_of_its_own(seconds: float, energy: float) -> None:
    with_static = tve("loihi1-davies2018", step_time_s=seconds).priced[0]
    without = tve("loihi1-davies2018").priced[0]
    assert with_static.static is not None
    assert with_static.static.energy.nominal_nj == pytest.approx(energy)
    assert with_static.energy == without.energy
    assert without.static is None
    assert "static power (no step time given)" in without.not_priced


def test_random_numbers_of_an_outside_encoder() -> None:
    report = tve("h45-fp32", encoder=bernoulli_encoder(XD[0], T))
    assert classes(report.priced[0])["encoder"] == pytest.approx(1024 * (17 + 0.9) / 1e3)


def test_what_has_no_cost_is_named_and_never_zero() -> None:
    report = tvd("loihi1-davies2018", "loihi2", "darwin3", "truenorth-allin")
    davies, loihi2, darwin, allin = report.priced
    assert any("30976" in text for text in davies.not_priced)
    assert loihi2.energy is None
    assert loihi2.data is None
    assert any(text.startswith("synaptic operations") for text in loihi2.not_priced)
    assert "neuron updates" in darwin.not_priced
    assert "neuron updates" not in allin.not_priced
    assert all(p.lower_bound for p in report.priced)
    full = tve("truenorth-allin").priced[0]
    assert full.not_priced == ()
    assert not full.lower_bound


def test_dense_machines_pay_for_every_step() -> None:
    report = tve("cpu-i7-4960x")
    assert report.priced[0].energy is not None
    assert report.priced[0].energy.nominal_nj == pytest.approx(T * 6356 * 8.6)
    assert ratios(report.ann[0])["ops"].nominal == pytest.approx(T)


def test_a_decision_costs_its_votes() -> None:
    found = tve("loihi1-davies2018", votes=5).priced[0]
    assert found.energy is not None
    assert found.energy_per_decision is not None
    assert found.energy_per_decision.nominal_nj == pytest.approx(5 * found.energy.nominal_nj)
    with pytest.raises(UsageError, match="votes"):
        tve("loihi1-davies2018", votes=0)


def test_breakdown_and_layers_add_up() -> None:
    for priced in tve(*list_profiles()).priced:
        if priced.energy is None:
            continue
        total = priced.energy.nominal_nj
        assert sum(c.energy.nominal_nj for c in priced.breakdown) == pytest.approx(total)
        assert sum(layer.energy.nominal_nj for layer in priced.layers) == pytest.approx(total)
        assert sum(c.share for c in priced.breakdown) == pytest.approx(1)
        assert priced.energy.low_nj <= total <= priced.energy.high_nj


def test_totals_and_rows() -> None:
    report = tve("h45-int8")
    assert report.totals.spikes_per_synapse == pytest.approx(1.549, abs=0.0005)
    assert report.totals.rate == pytest.approx(81 / 2480)
    assert report.totals.connection_sparsity == pytest.approx(48 / 828)
    rows = {row.node: row for row in report.layers}
    assert rows["conv1"].spikes_per_synapse == pytest.approx(2.36, abs=0.005)
    assert rows["conv1"].dense == 30976
    assert rows["lif1"].rate == pytest.approx(64 / 2048)
    assert rows["conv2"].rate is None


def test_report_survives_json() -> None:
    report = tvd(*list_profiles(), step_time_s=1e-3)
    assert msgspec.json.decode(msgspec.json.encode(report), type=EnergyReport) == report


def test_interval_over_samples_is_students_t() -> None:
    x = np.random.default_rng(3).random((T, 9, 2, 8, 8)) < 0.3
    nodes = {
        "input": nir.Input({"input": np.array([2, 8, 8])}),
        "conv": conv_node(W1, B1, (8, 8), 1, 1),
        "output": nir.Output({"output": np.array([4, 8, 8])}),
    }
    net = wrap(nodes, list(itertools.pairwise(nodes)))
    report = energy_report(net, SpikeRecord({"input": x.sum(0)}), T, ["seneca"], input_events=True)
    each = [
        energy_report(
            net, SpikeRecord({"input": x[:, [i]].sum(0)}), T, ["seneca"], input_events=True
        ).totals.sop
        for i in range(9)
    ]
    expected = stats.t.interval(0.95, 8, loc=np.mean(each), scale=stats.sem(each))
    found = report.data[0]
    assert (found.ci_low, found.ci_high) == pytest.approx(expected)
    assert (found.p5, found.p50, found.p95) == pytest.approx(np.percentile(each, (5, 50, 95)))
    energy = report.priced[0].data
    assert energy is not None
    assert energy.mean == pytest.approx(found.mean * 2.8e-3)
    assert tve("seneca").data[0].ci_low is None


def term(group: str, key: str, ends: tuple[float, float, float], count: float) -> Term:
    one = np.array([count])
    return Term(group, "n", key, Cost(*ends, evidence="assumed"), one, one, one)


def test_ratio_extremes_are_those_of_a_dense_grid_over_the_costs() -> None:
    box = {"a": (1.0, 2.0, 5.0), "b": (0.5, 0.6, 4.0), "c": (2.0, 2.5, 3.0)}
    above = [term("mac", "a", box["a"], 3), term("mac", "b", box["b"], 1)]
    below = [term("mac", "a", box["a"], 1), term("mac", "c", box["c"], 2)]
    grid = itertools.product(*(np.linspace(low, high, 21) for low, _, high in box.values()))
    values = [(3 * a + b) / (a + 2 * c) for a, b, c in grid]
    found = ratio("ops", above, below)
    assert found.nominal == pytest.approx((3 * 2 + 0.6) / (2 + 2 * 2.5))
    assert (found.low, found.high) == pytest.approx((min(values), max(values)))


def test_bit_matched_ann_has_the_width_of_the_spike_count() -> None:
    found = tve("h45-int8-sram").ann[1]
    assert found.bits == 4 == math.ceil(math.log2(T + 1))
    assert found.ops.nominal_nj == pytest.approx(6356 * (0.2 / 4 + 0.1) / 1e3)


@pytest.mark.parametrize("name", list_profiles())
def test_profiles_follow_the_schema(name: str) -> None:
    profile = load_profile(name)
    assert profile.id == name
    assert profile.source
    assert profile.costs() or profile.static
    for cost in profile.costs().values():
        assert 0 < cost.low <= cost.nominal <= cost.high
    for baseline in profile.ann_baselines:
        assert baseline == "matched" or load_profile(baseline).cost.mac is not None
    assert tve(name).priced[0].profile == name


def test_unknown_conventions_and_missing_steps_are_refused() -> None:
    with pytest.raises(UsageError, match="leak"):
        tve("h45-int8", conventions=Conventions(leak="divide"))
    with pytest.raises(UsageError, match="number of steps"):
        energy_report(program(), EVENTS.record(), profiles=["h45-int8"], input_events=True)


def test_buffers_are_sized_by_their_content() -> None:
    memory = load_profile("h45-fp32-sram").memory
    assert memory is not None
    assert 64 * memory.pj_per_bit(8 * 8192) == pytest.approx(10)
    assert 64 * memory.pj_per_bit(8 * 32768) == pytest.approx(20)
    assert memory.pj_per_bit(1) == memory.pj_per_bit(8 * 1024)


def neuron(kind: str) -> nir.NIRNode:
    one = np.ones(54)
    cuba = (one, one, one, 0 * one)
    return {
        "IF": lambda: nir.IF(r=one, v_threshold=one),
        "LIF": lambda: lif_node((54,)),
        "LI": lambda: nir.LI(tau=one, r=one, v_leak=0 * one),
        "I": lambda: nir.I(r=one),
        "CubaLIF": lambda: nir.CubaLIF(*cuba, one),
        "CubaLI": lambda: nir.CubaLI(*cuba),
        "Threshold": lambda: nir.Threshold(threshold=one),
    }[kind]()


@pytest.mark.parametrize(
    ("kind", "pj", "words"),
    [
        ("IF", 0.9 + 0.9, 1),
        ("LIF", 3.7 + 0.9 + 0.9, 1),
        ("LI", 3.7 + 0.9, 1),
        ("I", 0.9, 1),
        ("CubaLIF", 2 * 3.7 + 2 * 0.9 + 0.9, 2),
        ("CubaLI", 2 * 3.7 + 2 * 0.9, 2),
        ("Threshold", 0.9, 0),
    ],
)
def test_every_neuron_type_has_its_own_price(kind: str, pj: float, words: int) -> None:
    nodes = {
        "input": nir.Input({"input": np.array([54])}),
        "neuron": neuron(kind),
        "output": nir.Output({"output": np.array([54])}),
    }
    net = wrap(nodes, list(itertools.pairwise(nodes)))
    zeros = np.zeros((1, 54), dtype=np.int64)
    record = SpikeRecord({"input": zeros, "neuron": zeros})
    report = energy_report(net, record, T, [at_8kb("h45-fp32-sram")])
    found = classes(report.priced[0])
    assert found["neurons"] == pytest.approx(54 * T * pj / 1e3)
    assert found.get("states", 0) == pytest.approx(54 * T * 2 * words * 32 * 10 / 64 / 1e3)


def test_analog_layers_multiply_at_every_step() -> None:
    nodes = {
        "input": nir.Input({"input": np.array([54])}),
        "a": nir.Linear(np.ones((20, 54))),
        "li": nir.LI(tau=np.ones(20), r=np.ones(20), v_leak=np.zeros(20)),
        "b": nir.Linear(np.ones((5, 20))),
        "output": nir.Output({"output": np.array([5])}),
    }
    net = wrap(nodes, list(itertools.pairwise(nodes)))
    report = energy_report(net, SpikeRecord({"input": np.ones((1, 54), dtype=np.int64)}), T, ["h45-fp32"])
    assert classes(report.priced[0])["mac"] == pytest.approx(T * (54 * 20 + 20 * 5) * 4.6 / 1e3)
    assert report.totals.sop == 0
