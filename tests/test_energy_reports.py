"""Curves, tornadoes, Pareto fronts and files: functions of the counts, checked against counting anew."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import msgspec
import numpy as np
import pytest
from energy_vectors import XD, XE, Run, T, program
from energy_vectors import simulate as simulate_anew
from scipy import stats

from rsc.energy import EnergyReport, count, energy_report, neurobench_metrics
from rsc.energy.curve import CurveTally, chosen_steps, prefix
from rsc.energy.estimate import layer_counts
from rsc.energy.profile import load_profile
from rsc.errors import UsageError
from rsc.program import EncoderSpec
from rsc.report import numbers, terminal_tables
from rsc.report.files_energy import (
    all_tables,
    alone,
    energy_markdown,
    histograms_csv,
    layers_csv,
    profiles_csv,
    write_energy,
)
from rsc.report.plots_energy import Candidate, distribution, front, over_time, pareto, tornado
from rsc.report.profiles_energy import listing, one
from rsc.report.sections import sections
from rsc.report.tables_energy_runs import histograms
from rsc.results import RunResult, RunStats, SpikeRecord

PROFILES = ("h45-int8-sram", "loihi1-davies2018")
STATS = RunStats("reference", "1", "float64")


KNOWN: dict[bytes, Run] = {}


def simulate(x: np.ndarray) -> Run:
    """The slow simulation, once per input."""
    key = x.tobytes()
    if key not in KNOWN:
        KNOWN[key] = simulate_anew(x)
    return KNOWN[key]


def result(x: np.ndarray) -> RunResult:
    run = simulate(x)
    return RunResult({"output": run.out}, run.out.sum(0), run.record(), STATS)


@pytest.fixture(scope="module")
def report() -> EnergyReport:
    found = energy_report(program(), result(XE), profiles=PROFILES, input_events=True)
    tally = CurveTally(program(), range(1, T + 1), True)
    tally.add(result(XE), np.array([2]))
    return msgspec.structs.replace(found, curve=tally.points(PROFILES))


def test_every_point_of_the_curve_is_the_report_of_a_shorter_run(report: EnergyReport) -> None:
    for point in report.curve:
        run = simulate(XE)
        short = prefix(run.record(), point.steps)
        alone = energy_report(program(), short, point.steps, PROFILES, input_events=True)
        assert point.sop == alone.totals.sop
        priced = [(p.profile, p.energy.nominal_nj) for p in alone.priced if p.energy]
        assert dict(point.energy) == pytest.approx(dict(priced))
        right = run.out[: point.steps].sum(0)[0].argmax() == 2
        assert point.accuracy == float(right)
        ends = stats.binomtest(int(right), 1).proportion_ci(method="wilson")
        assert (point.low, point.high) == pytest.approx((ends.low, ends.high))
    assert report.curve[-1].sop == report.totals.sop


def test_the_encoder_of_a_shorter_run_draws_less() -> None:
    net = program(EncoderSpec("rsc2", T, sigma=0.1))
    tally = CurveTally(net, (2, T))
    tally.add(result(XD))
    few, all_steps = (dict(p.energy)["h45-int8-sram"] for p in tally.points(PROFILES))
    assert few < all_steps / 3
    assert tally.points(PROFILES)[0].accuracy is None


def test_a_curve_needs_rasters_and_thins_out_long_runs() -> None:
    with pytest.raises(UsageError, match="not recorded"):
        prefix(simulate(XE).record(rasters=False), 2)
    assert chosen_steps(5) == (1, 2, 3, 4, 5)
    assert chosen_steps(1000)[-1] == 1000
    assert len(chosen_steps(1000)) == 16


def test_swings_of_costs_and_choices_are_those_of_pricing_anew(report: EnergyReport) -> None:
    """One cost at its end in the profile itself, all others nominal, gives the end of its bar."""
    priced = report.priced[1]
    assert priced.energy is not None
    davies = load_profile("loihi1-davies2018")
    bars = {s.name: s for s in priced.tornado}
    for name in ("sop", "neuron_active"):
        costs = davies.costs()
        cost = costs[name]
        dear = msgspec.structs.replace(cost, nominal=cost.high)
        changed = msgspec.structs.replace(davies, cost=msgspec.structs.replace(davies.cost, **{name: dear}))
        anew = energy_report(program(), result(XE), profiles=[changed], input_events=True).priced[0].energy
        assert anew is not None
        assert bars[name].high == pytest.approx(anew.nominal_nj)
    widths = [s.high - s.low for s in priced.tornado]
    assert widths == sorted(widths, reverse=True)
    assert "zero weights skipped or not" in bars
    assert bars["links that an event crosses"].kind == "model"


def test_the_model_interval_lies_inside_the_whole_and_names_its_choices(report: EnergyReport) -> None:
    for priced in report.priced:
        model, energy = priced.model, priced.energy
        assert model is not None
        assert energy is not None
        assert energy.low_nj <= model.low_nj <= model.nominal_nj <= model.high_nj <= energy.high_nj
        assert model.nominal_nj == pytest.approx(energy.nominal_nj)
    assert report.priced[0].model is not None
    assert "accumulator in a register or in memory" in report.priced[0].model.choices


def test_memory_traffic_is_accesses_times_width(report: EnergyReport) -> None:
    """TV-E at int8: one 8-bit weight and one 32-bit read and write per operation, states twice per step."""
    found: dict[str, float] = {}
    for t in report.priced[0].traffic:
        found[t.name] = found.get(t.name, 0) + t.nominal
    assert found["weights"] == 9844 * 8
    assert found["accumulators"] == 2 * 9844 * 32
    assert found["states"] == 2 * 2480 * 32
    assert found["queue"] == 2 * (303 * 7 + 64 * 8 + 17 * 6)
    assert report.priced[1].traffic == ()


def test_the_ratio_has_a_tornado_in_which_shared_costs_move_both_sides(report: EnergyReport) -> None:
    sram = next(a for a in report.ann if a.baseline == "h45-int8-sram")
    whole = next(r for r in sram.ratios if r.name == "all")
    assert sram.tornado
    assert min(s.low for s in sram.tornado) >= whole.low
    assert max(s.high for s in sram.tornado) <= whole.high


def test_neurobench_names_hold_our_numbers(report: EnergyReport) -> None:
    found = neurobench_metrics(report)
    assert found["Effective_ACs"] == 9277
    assert found["Effective_MACs"] == 0
    assert found["Dense"] == 50848
    assert found["ConnectionSparsity"] == pytest.approx(48 / 828)
    assert found["ActivationSparsity"] == pytest.approx(1 - 81 / (T * 310))
    direct = energy_report(program(EncoderSpec("direct", T)), result(XD), profiles=["h45-int8"])
    assert neurobench_metrics(direct)["Effective_MACs"] == 18816


def test_a_candidate_is_on_the_front_unless_another_beats_it() -> None:
    def at(label: str, energy: float, clean: float) -> Candidate:
        return Candidate(label, (energy, energy, energy), {"clean": (clean, clean, clean)})

    some = [
        at("dear", 9, 0.9),
        at("good", 5, 0.9),
        at("cheap", 1, 0.5),
        at("beaten", 6, 0.6),
        at("twin", 5, 0.9),
    ]
    assert [c.label for c in front(some, "clean")] == ["cheap", "good", "twin"]
    drawn = pareto(some, "Energy and accuracy")
    assert drawn is not None
    ElementTree.fromstring(drawn.svg)
    assert pareto([], "nothing") is None


def test_files_hold_the_same_report(report: EnergyReport, tmp_path: Path) -> None:
    paths = {p.name for p in write_energy(report, tmp_path / "e")}
    plots = {"energy.svg", "energy-layers.svg", "sops.svg", "tornado.svg", "over-time.svg"}
    tables = {"layers.csv", "profiles.csv", "histograms.csv", "curve.csv"}
    assert paths == {"energy.json", "energy.md", *tables, *plots}
    text = (tmp_path / "e" / "energy.json").read_bytes()
    assert msgspec.json.decode(text, type=EnergyReport) == report
    for name in plots:
        root = ElementTree.parse(tmp_path / "e" / name).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"


def test_the_csv_has_a_line_per_node_with_counts_and_prices(report: EnergyReport) -> None:
    rows = {row["node"]: row for row in csv.DictReader(io.StringIO(layers_csv(report)))}
    assert rows["conv1"]["sop"] == "9140"
    assert rows["conv1"]["sop_per_pass"] == "9140.0"
    assert rows["conv1"]["events"] == "303"
    shares = [float(row["h45-int8-sram_share"] or 0) for row in rows.values()]
    assert 0.9 < sum(shares) < 1  # the queue of the input is no node of the graph
    total = sum(float(row["loihi1-davies2018_nominal_nj"] or 0) for row in rows.values())
    assert total == pytest.approx(428.9 - 303 * 1.7e-3, abs=0.1)


def test_tables_tell_of_every_part(report: EnergyReport) -> None:
    made = {t.id: t for t in all_tables(report)}
    for name in ("energy", "ratios", "neurobench", "tornado", "curve", "traffic", "layers", "sources"):
        assert made[name].rows, name
    text = energy_markdown(report)
    assert "Effective" in text
    assert text.count("\n| ") > 60
    assert tornado(report) is not None
    assert over_time(report) is not None
    assert over_time(msgspec.structs.replace(report, curve=())) is None


def test_json_of_a_layer_has_the_documented_keys(report: EnergyReport) -> None:
    layer = json.loads(msgspec.json.encode(report))["layers"][0]
    for key in ("node", "sop", "sop_nz", "mac", "events", "updates"):
        assert key in layer
        assert key == "node" or isinstance(layer[key], int)
        assert key == "node" or isinstance(layer["means"][key], float)


def test_profiles_are_listed_with_what_they_lack() -> None:
    shown = listing([load_profile(n) for n in ("loihi1-davies2018", "loihi2", "seneca", "truenorth-allin")])
    rows = {row[0]: row for row in shown.rows}
    missing = [c.header for c in shown.columns].index("Not priced")
    assert rows["loihi1-davies2018"][missing] == "mac, rng"
    assert rows["loihi2"][missing] == "sop, mac, rng, neurons"
    assert "neurons" in rows["seneca"][missing]
    assert "neurons" not in rows["truenorth-allin"][missing]
    facts, costs = one(load_profile("loihi1-davies2018"))
    assert any("Davies" in row[1] for row in facts.rows)
    assert {row[0] for row in costs.rows} == set(load_profile("loihi1-davies2018").costs())


def together(*samples: np.ndarray) -> EnergyReport:
    """Several samples as one run, on a chip whose times are known."""
    runs = [simulate(x).record() for x in samples]
    rasters = {k: np.concatenate([r.rasters[k] for r in runs], 1) for k in runs[0].rasters}
    counts = {k: r.sum(0, dtype=np.int64) for k, r in rasters.items()}
    record = SpikeRecord(counts, rasters)
    return energy_report(program(), record, T, PROFILES, input_events=True, step_time_s=1e-3)


@pytest.fixture(scope="module")
def several() -> EnergyReport:
    """Three samples of falling activity."""
    return together(*(XE * (np.arange(64).reshape(8, 8) % 3 >= k) for k in range(3)))


def test_step_time_and_spread_are_told_in_every_form(several: EnergyReport) -> None:
    found = several
    bounds, (histogram,) = found.priced[1].step_time, found.histograms
    assert bounds is not None
    assert sum(histogram.counts) == 3
    shown = "\n".join(str(c._cells) for t in terminal_tables(alone(found)) for c in t.columns)
    for text in (shown, energy_markdown(found)):
        assert numbers.seconds(bounds.low_s) in text
        assert numbers.seconds(bounds.high_s) in text
        assert numbers.count(histogram.edges[0]) in text
    (told,) = (section for section in sections(alone(found)) if section.id == "energy")  # of the HTML, too
    assert {"step-time", "histograms"} <= {t.id for t in told.tables}
    assert {"distribution", "energy-layers"} <= set(told.plots)
    rows = list(csv.DictReader(io.StringIO(profiles_csv(found))))
    assert [r["step_low_s"] for r in rows] == ["", str(bounds.low_s)]
    assert float(rows[1]["static_nj"]) == pytest.approx(T * 104.4e3)
    bins = list(csv.DictReader(io.StringIO(histograms_csv(found))))
    assert [int(r["samples"]) for r in bins] == list(histogram.counts)
    assert distribution(found) is not None


def test_the_blocks_of_a_distribution_stand_for_its_counts(several: EnergyReport) -> None:
    (row,) = histograms(alone(several)).rows
    assert 1 < len(row[-1]) <= 30
    (histogram,) = several.histograms
    assert len(row[-1]) == len(histogram.counts)
    assert [c == "·" for c in row[-1]] == [n == 0 for n in histogram.counts]
    top = max(histogram.counts)
    assert [c == "█" for c in row[-1]] == [n == top for n in histogram.counts]


def test_one_sample_has_no_distribution_and_equal_ones_are_all_alike(report: EnergyReport) -> None:
    assert histograms(alone(report)).rows == ()
    twice = together(XE, XE)
    assert histograms(alone(twice)).rows[0][-3:] == ("9,844", "1", "all alike")


def test_layers_are_broken_down_by_class_without_rest(report: EnergyReport) -> None:
    for priced in report.priced:
        for group in priced.breakdown:
            parts = [c.energy.nominal_nj for x in priced.layers for c in x.parts if c.name == group.name]
            assert sum(parts) == pytest.approx(group.energy.nominal_nj)
        for layer in priced.layers:
            assert sum(c.energy.nominal_nj for c in layer.parts) == pytest.approx(layer.energy.nominal_nj)
            assert sum(c.share for c in layer.parts) == pytest.approx(1)


@pytest.mark.parametrize("pooling", ["fold", "graded"])
def test_every_prefix_of_a_curve_counts_like_the_short_run_alone(pooling: str) -> None:
    run = result(XE)
    tally = CurveTally(program(), (1, 3, 8), True, pooling)
    tally.add(run)
    for steps, (made,) in tally.counts.items():
        short = count(program(), prefix(run.spikes, steps), steps, "reference", True, pooling)
        assert [layer_counts(n, steps) for n in made.nodes] == [layer_counts(n, steps) for n in short.nodes]
