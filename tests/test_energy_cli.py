"""`rsc energy` and `rsc profiles` as a user meets them, and how a run is taken apart to be counted."""

from __future__ import annotations

import json
from pathlib import Path

import nir
import numpy as np
import pytest
from command import call
from energy_vectors import XD, XE, T, program, simulate

from rsc.data import Dataset
from rsc.energy import energy_report, list_profiles, load_profile
from rsc.energy.rasters import Activity
from rsc.errors import InputRefused, UsageError
from rsc.export.writer import write_program
from rsc.hw_targets import deploy
from rsc.material import Material
from rsc.metering import Metering, meter
from rsc.program import EncoderSpec
from rsc.results import Keys

SHARED = Path(__file__).parent.parent.parent / "shared" / "conformance"
KEYS = ("node", "sop", "sop_nz", "mac", "events", "updates")
RNG = np.random.default_rng(2)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with the network and both vectors."""
    write_program(program(), tmp_path / "net.nir")
    np.save(tmp_path / "e.npy", XE.astype(np.float32))
    np.save(tmp_path / "d.npy", XD.astype(np.float32))
    return tmp_path


def test_counts_of_a_file_are_integers_with_means_beside_them(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = np.concatenate([XE, XE], 1).astype(np.float32)
    np.save(files / "two.npy", two)
    words = ("--on", "reference", "--profile", "loihi1-davies2018", "--profile", "h45-int8")
    code, out, _ = call(capsys, "energy", files / "net.nir", *words, "--input", files / "two.npy", "--json")
    value = json.loads(out)
    assert code == 0
    assert value["input"] == "events"
    assert any("counted as events" in note for note in value["notes"])
    rows = {x["node"]: x for x in value["layers"]}
    assert [rows["conv1"][k] for k in KEYS] == ["conv1", 18280, 17222, 0, 606, 0]
    assert [rows["conv1"]["means"][k] for k in KEYS[1:]] == [9140, 8611, 0, 303, 0]
    assert rows["lif1"]["updates"] == 2 * 2048
    assert rows["lif1"]["updates_active"] == 2 * 2040
    assert value["priced"][0]["energy"]["nominal_nj"] == pytest.approx(428.9, abs=0.051)


def test_frames_of_other_values_are_graded_and_cannot_be_declared_events(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ("energy", files / "net.nir", "--on", "reference", "--json", "--input")
    rows = {x["node"]: x for x in json.loads(call(capsys, *base, files / "d.npy")[1])["layers"]}
    assert [rows["conv1"][k] for k in KEYS] == ["conv1", 0, 0, 30976, 664, 0]
    assert rows["conv1"]["mac_zero_skipped"] == 19968
    code, _, err = call(capsys, *base, files / "d.npy", "--input-as", "events")
    assert code == 4
    assert "declared to be events" in err
    rows = {
        x["node"]: x
        for x in json.loads(call(capsys, *base, files / "e.npy", "--input-as", "graded")[1])["layers"]
    }
    assert (rows["conv1"]["sop"], rows["conv1"]["mac"]) == (0, 30976)


def test_a_file_of_another_tool_needs_only_its_time_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not SHARED.is_dir():
        pytest.skip("There is no folder of recordings beside the checkout.")
    np.save(tmp_path / "f.npy", (RNG.random((40, 2, 12)) < 0.3).astype(np.float32))
    file = SHARED / "03_rnn" / "braille_noDelay_bias_zero.nir"
    words = (
        "--profile",
        "loihi1-davies2018",
        "--profile",
        "h45-int8",
        "--input",
        tmp_path / "f.npy",
        "--dt",
        "1e-4",
    )
    found = []
    for on in ("reference", "torch"):
        code, out, _ = call(capsys, "energy", file, "--on", on, *words, "--json")
        assert code == 0
        found.append([[x[k] for k in KEYS] for x in json.loads(out)["layers"]])
    assert found[0] == found[1]
    assert sum(row[1] for row in found[0]) > 0


def test_all_that_can_be_asked_for_at_once(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "--votes",
        5,
        "--step-time",
        "1e-3",
        "--curve",
        "--measure",
        "0.01",
        "--leak",
        "shift",
        "--out",
        files / "o",
    )
    code, out, _ = call(
        capsys, "energy", files / "net.nir", "--on", "torch", "--input", files / "e.npy", *words, "--json"
    )
    value = json.loads(out)
    assert code == 0
    assert len(value["curve"]) == T
    assert len(value["measured"]) + len(value["not_measured"]) >= 2
    assert value["conventions"]["leak"] == "shift"
    assert value["priced"][1]["energy_per_decision"]["nominal_nj"] == pytest.approx(5 * 428.9, abs=0.3)
    assert value["priced"][1]["static"]["energy"]["nominal_nj"] == pytest.approx(835.2e3)
    assert json.loads((files / "o" / "energy.json").read_bytes()) == value
    code, out, _ = call(
        capsys, "energy", files / "net.nir", "--input", files / "e.npy", "--curve", "--measure", "0.01"
    )
    assert code == 0
    assert "Energy and accuracy over T" in out


def test_profiles_are_listed_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "profiles", "--json")
    assert code == 0
    listed = json.loads(out)
    assert [p["id"] for p in listed] == list(list_profiles())
    assert all(p["source"] for p in listed)
    code, out, _ = call(capsys, "profiles")
    assert code == 0
    assert "truenorth-marginal" in out
    own = tmp_path / "mine.toml"
    own.write_text(
        'id="mine"\ntitle="t"\nsource="s"\n[cost]\nsop={low=1,nominal=2,high=3,evidence="assumed"}\n'
    )
    code, out, _ = call(capsys, "profiles", own, "--json")
    assert (code, json.loads(out)["cost"]["sop"]["nominal"]) == (0, 2)
    assert call(capsys, "profiles", "loihi3")[0] == 2


def images(n: int) -> Dataset:
    x = RNG.random((n, 2, 8, 8)).astype(np.float32)
    return Dataset("some", "test", x, np.arange(n) % 10, np.arange(n), (0.0, 1.0), tuple("0123456789"))


def test_parts_seeds_and_noise_are_those_of_one_run() -> None:
    net = program(EncoderSpec("bernoulli", T))
    data = images(5)
    whole = meter(net, "torch", ["h45-int8"], Material(data=data), Metering(seed=3, seeds=2, curve=True))
    small = meter(
        net, "torch", ["h45-int8"], Material(data=data), Metering(seed=3, seeds=2, curve=True), budget=1
    )
    assert small == whole
    assert (whole.n, whole.data[0].n, whole.data[0].seeds) == (10, 5, 2)
    assert whole.input == "events"
    assert whole.data[0].seed_std
    sums = []
    for seed in (3, 4):
        with deploy(net, "torch") as model:
            result = model.run(data.images, Keys(seed, data.ids))
        sums.append(energy_report(net, result, T, ["h45-int8"]).totals.sop)
    assert whole.totals.sop == pytest.approx(np.mean(sums))
    assert whole.curve[-1].accuracy is not None


def test_long_recordings_are_counted_in_chunks() -> None:
    frames = (RNG.random((30, 2, 2, 8, 8)) < 0.2).astype(np.float32)
    whole = meter(program(), "torch:float64", ["h45-int8"], Material(frames=frames))
    small = meter(program(), "torch:float64", ["h45-int8"], Material(frames=frames), budget=2000)
    assert small == whole


def test_a_long_recording_counts_touched_neurons_only_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("Updates with synaptic input were counted.")

    frames = Material(frames=(RNG.random((30, 2, 2, 8, 8)) < 0.2).astype(np.float32))
    asked = meter(program(), "torch", ["h45-int8"], frames, Metering(touched=True), budget=2000)
    monkeypatch.setattr(Activity, "reached_updates", forbidden)
    for how in (Metering(touched=False), Metering(touched=False, curve=True)):
        found = meter(program(), "torch", ["h45-int8"], frames, how, budget=2000)
        assert {x.updates_active for x in found.layers if x.neurons} == {None}
        assert [x.sop for x in found.layers] == [x.sop for x in asked.layers]
    assert all(x.updates_active for x in asked.layers if x.neurons)


def test_sets_of_event_frames_pass_by_the_encoder() -> None:
    frames = np.moveaxis(np.concatenate([XE, XE], 1), 0, 1).astype(np.float32)
    data = Dataset("e", "test", frames, np.zeros(2, int), np.arange(2), (0.0, 1.0), ("a",), frames=True)
    found = meter(program(EncoderSpec("rsc2", T, sigma=0.1)), "torch", ["h45-int8"], Material(data=data))
    assert found.totals.sop == 9844
    assert found.encoder.kind == "none"


def test_what_does_not_fit_the_material_is_refused() -> None:
    net = program(EncoderSpec("direct", T))
    with pytest.raises(UsageError, match="said to be events"):
        meter(net, "torch", ["h45-int8"], Material(data=images(1)), Metering(kind="events"))
    with pytest.raises(UsageError, match="seeds"):
        Metering(seeds=0)
    with pytest.raises(InputRefused, match="no encoder"):
        meter(program(), "torch", ["h45-int8"], Material(data=images(1)))


def test_a_program_of_the_graph_is_counted_like_the_simulation(files: Path) -> None:
    graph = nir.read(files / "net.nir")
    assert set(graph.nodes) == set(program().graph.nodes)
    by_hand = energy_report(program(), simulate(XE).record(), T, ["loihi1-davies2018"], input_events=True)
    found = meter(program(), "reference", [load_profile("loihi1-davies2018")], Material(frames=XE))
    assert found.layers == by_hand.layers
    assert found.priced == by_hand.priced


def test_touched_neurons_may_be_left_out_and_their_price_is_then_an_interval() -> None:
    frames = Material(frames=(RNG.random((3, 8, 2, 8, 8)) < 0.2).astype(np.float32))
    quick = meter(program(), "torch", ["loihi1-davies2018"], frames, Metering(touched=False))
    exact = meter(program(), "torch", ["loihi1-davies2018"], frames)
    assert [x.sop for x in quick.layers] == [x.sop for x in exact.layers]
    assert {x.updates_active for x in quick.layers if x.neurons} == {None}
    assert all(x.updates_active for x in exact.layers if x.neurons)
    (wide, narrow) = (r.priced[0].energy for r in (quick, exact))
    assert wide is not None
    assert narrow is not None
    assert wide.low_nj <= narrow.low_nj <= narrow.high_nj <= wide.high_nj


@pytest.mark.parametrize("shape", [(0, 1, 2, 8, 8), (8, 0, 2, 8, 8)])
def test_frames_without_steps_or_samples_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputRefused, match="empty"):
        meter(program(), "torch", ["h45-int8"], Material(frames=np.zeros(shape, np.float32)))


def test_nothing_runs_for_a_profile_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsc.metering.deploy", lambda *_: pytest.fail("It ran."))
    with pytest.raises(UsageError, match="energy profile"):
        meter(program(), "torch", ["h45-int9"], Material(frames=XE))


@pytest.mark.parametrize("what", [{"step_time_s": -1.0}, {"step_time_s": float("nan")}, {"votes": 0}])
def test_amounts_that_make_no_sense_are_refused_by_name(what: dict) -> None:
    with pytest.raises(UsageError, match="step time is" if "step_time_s" in what else "votes"):
        Metering(**what)
    with pytest.raises(UsageError, match="measurement"):
        Metering(measure_s=-1.0)


def test_the_report_says_what_frames_were_counted_as_and_why(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*words: str) -> str:
        words = ("--profile", "h45-int8", "--input", *words)
        code, out, _ = call(capsys, "energy", files / "net.nir", "--dt", "1e-3", *words)
        assert code == 0
        return " ".join(out.split())

    assert "nothing but 0 and 1 and were counted as events" in told(str(files / "e.npy"))
    assert "declared to be graded and were counted as graded" in told(
        str(files / "e.npy"), "--input-as", "graded"
    )
    share = 100 * np.mean((XD != 0) & (XD != 1))
    assert f"counted as graded values (multiplications): {share:.3g} % of" in told(str(files / "d.npy"))
