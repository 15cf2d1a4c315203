"""Norse runs programs as their equations say; the oracles are loops written here and recordings of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from norse_networks import DT, EULER, chain, fire, flat, lif, port, run
from scipy.signal import correlate2d

from rsc.export.reader import read_program
from rsc.hw_targets import deploy
from rsc.program import EncoderSpec, Program, Semantics
from rsc.results import Keys, Probe

RECORDED = Path(__file__).resolve().parents[2] / "shared" / "conformance"


def conv(x: np.ndarray, weight: np.ndarray, padding: int, groups: int = 1) -> np.ndarray:
    """Cross-correlation [B, C, H, W] by scipy."""
    x = np.pad(x.astype(float), ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    per = weight.shape[0] // groups
    out = [
        [
            sum(
                correlate2d(sample[o // per * weight.shape[1] + c], weight[o, c], "valid")
                for c in range(weight.shape[1])
            )
            for o in range(len(weight))
        ]
        for sample in x
    ]
    return np.array(out)


def average(x: np.ndarray, k: int) -> np.ndarray:
    b, c, h, w = x.shape
    return x[..., : h // k * k, : w // k * k].reshape(b, c, h // k, k, w // k, k).mean((3, 5))


@pytest.mark.parametrize("rule", ["value", "subtract"])
def test_lif_with_a_parameter_of_its_own_for_every_neuron(rule: Any) -> None:
    rng = np.random.default_rng(1)
    p = {
        "tau": rng.uniform(1e-3, 9e-3, 40),
        "r": rng.uniform(0.2, 5, 40),
        "v_leak": rng.uniform(-1, 1.5, 40),
        "v_threshold": rng.uniform(0.2, 1, 40),
        "v_reset": rng.uniform(-0.5, 0.1, 40) * (rule == "value"),
    }
    x = rng.uniform(-1, 2, (60, 3, 40)).astype(np.float32)
    found = run(chain((40,), (40,), lif=lif(40, **p)), x, Semantics(dt=DT, reset=rule))
    v = np.zeros((3, 40))
    for t, frame in enumerate(x.astype(float)):
        v = v + DT / p["tau"] * (p["v_leak"] - v + p["r"] * frame)
        spikes, v = fire(v, p["v_threshold"], p["v_reset"], rule)
        assert (found.spikes.rasters["lif"][t] == spikes).all()
        assert np.abs(found.spikes.states["lif.v"][t] - v).max() < 1e-12
        assert (found.outputs["output"][t] == spikes).all()
    assert 0.05 < found.spikes.rasters["lif"].mean() < 0.95
    assert (found.spikes.counts["lif"] == found.spikes.rasters["lif"].sum(0)).all()


def test_if_integrates_r_times_dt() -> None:
    rng = np.random.default_rng(2)
    r, threshold, reset = rng.uniform(100, 900, 20), rng.uniform(0.5, 1, 20), rng.uniform(-0.5, 0.4, 20)
    x = rng.uniform(-0.5, 1, (50, 2, 20)).astype(np.float32)
    found = run(chain((20,), (20,), neuron=nir.IF(r, threshold, reset)), x)
    v = np.zeros((2, 20))
    for t, frame in enumerate(x.astype(float)):
        spikes, v = fire(v + DT * r * frame, threshold, reset)
        assert (found.spikes.rasters["neuron"][t] == spikes).all()
        assert np.abs(found.spikes.states["neuron.v"][t] - v).max() < 1e-12
    assert found.spikes.rasters["neuron"].any()


@pytest.mark.parametrize("rule", ["value", "subtract"])
def test_cuba_lif_keeps_its_synapse_free_of_the_membrane_leak(rule: Any) -> None:
    rng = np.random.default_rng(3)
    low = {
        "tau_syn": 1e-3,
        "tau_mem": 2e-3,
        "r": -2,
        "v_leak": -0.5,
        "v_threshold": 0.2,
        "v_reset": -0.3,
        "w_in": -3,
    }
    high = {
        "tau_syn": 9e-3,
        "tau_mem": 9e-3,
        "r": 5,
        "v_leak": 0.5,
        "v_threshold": 1,
        "v_reset": 0.1,
        "w_in": 3,
    }
    p: Any = {k: rng.uniform(low[k], high[k], 30) for k in low}
    x = rng.uniform(-1, 2, (60, 2, 30)).astype(np.float32)
    found = run(chain((30,), (30,), cuba=nir.CubaLIF(**p)), x, Semantics(dt=DT, reset=rule))
    v = i = np.zeros((2, 30))
    for t, frame in enumerate(x.astype(float)):
        i = i + DT / p["tau_syn"] * (-i + p["w_in"] * frame)
        v = v + DT / p["tau_mem"] * (p["v_leak"] - v + p["r"] * i)
        spikes, v = fire(v, p["v_threshold"], p["v_reset"], rule)
        assert (found.spikes.rasters["cuba"][t] == spikes).all()
        assert np.abs(found.spikes.states["cuba.v"][t] - v).max() < 1e-11
        assert np.abs(found.spikes.states["cuba.i"][t] - i).max() < 1e-11
    assert found.spikes.rasters["cuba"].any()


def convnet(rng: np.random.Generator) -> tuple[nir.NIRGraph, list[Any]]:
    w = [rng.normal(size=s) for s in ((4, 1, 3, 3), (6, 4, 3, 3), (5, 24))]
    b = [rng.normal(size=s) * 0.1 for s in (4, 6, 5)]
    pool: Any = {"kernel_size": port(2, 2), "stride": port(2, 2), "padding": port(0, 0)}
    graph = chain(
        (1, 8, 8),
        (5,),
        conv1=nir.Conv2d((8, 8), w[0], 1, 1, 1, 1, b[0]),
        lif1=lif(4, 8, 8),
        pool1=nir.AvgPool2d(**pool),
        conv2=nir.Conv2d((4, 4), w[1], 1, 1, 1, 1, b[1]),
        lif2=lif(6, 4, 4),
        pool2=nir.AvgPool2d(**pool),
        flatten=flat(),
        fc=nir.Affine(w[2], b[2]),
    )
    return graph, [w, b]


def test_a_small_convolutional_network() -> None:
    """LIF with tau = 2 dt and r = 2, that is v' = 0.5 v + I."""
    rng = np.random.default_rng(4)
    graph, (w, b) = convnet(rng)
    x = rng.uniform(0, 1, (6, 3, 1, 8, 8)).astype(np.float32)
    found = run(graph, x)
    v1, v2 = np.zeros((3, 4, 8, 8)), np.zeros((3, 6, 4, 4))
    for t, frame in enumerate(x):
        s1, v1 = fire(0.5 * v1 + conv(frame, w[0], 1) + b[0][:, None, None], 1, 0)
        s2, v2 = fire(0.5 * v2 + conv(average(s1, 2), w[1], 1) + b[1][:, None, None], 1, 0)
        out = average(s2, 2).reshape(3, -1) @ w[2].T + b[2]
        assert (found.spikes.rasters["lif1"][t] == s1).all()
        assert (found.spikes.rasters["lif2"][t] == s2).all()
        assert np.abs(found.spikes.states["lif2.v"][t] - v2).max() < 1e-12
        assert np.abs(found.outputs["output"][t] - out).max() < 1e-12
    assert 0.05 < found.spikes.rasters["lif2"].mean() < 0.95


@pytest.mark.parametrize("other", ["reference", "torch:float64"])
def test_targets_agree_under_keyed_noise(other: str) -> None:
    graph, _ = convnet(np.random.default_rng(5))
    program = Program(graph, EULER, EncoderSpec("rsc2", 6, 0.1), (0.0, 1.0))
    x = np.random.default_rng(6).uniform(0, 1, (4, 1, 8, 8)).astype(np.float32)
    probe, keys = Probe.everything(("lif1", "lif2")), Keys(7, np.arange(4))
    a, b = (deploy(program, spec).run(x, keys, probe) for spec in ("norse", other))
    assert a.frames_digest == b.frames_digest
    assert set(a.spikes.counts) == set(b.spikes.counts)
    assert all((a.spikes.counts[k] == b.spikes.counts[k]).all() for k in a.spikes.counts)
    assert all((a.spikes.rasters[k] == b.spikes.rasters[k]).all() for k in a.spikes.rasters)
    assert set(a.spikes.states) == set(b.spikes.states)
    assert np.abs(a.logits - b.logits).max() < 1e-12


@pytest.mark.parametrize(
    ("node", "kernel"),
    [
        (nir.SumPool2d(port(2, 2), port(2, 2), port(0, 0)), "sum"),
        (nir.SumPool2d(port(3, 2), port(1, 2), port(1, 1)), "sum"),
        (nir.AvgPool2d(port(3, 3), port(2, 1), port(1, 0)), "mean"),
    ],
)
def test_poolings_count_their_padding(node: Any, kernel: str) -> None:
    x = np.random.default_rng(8).normal(size=(2, 3, 2, 7, 6)).astype(np.float32)
    (kh, kw), (sh, sw), (ph, pw) = (tuple(map(int, v)) for v in (node.kernel_size, node.stride, node.padding))
    padded = np.pad(x.astype(float), ((0, 0),) * 3 + ((ph, ph), (pw, pw)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kh, kw), (3, 4))[..., ::sh, ::sw, :, :]
    expected = windows.sum((-1, -2)) if kernel == "sum" else windows.mean((-1, -2))
    found = run(chain((2, 7, 6), expected.shape[2:], pool=node), x)
    assert np.abs(found.outputs["output"] - expected).max() < 1e-6


def test_grouped_oblong_convolutions() -> None:
    rng = np.random.default_rng(9)
    weight, bias = rng.normal(size=(6, 2, 3, 2)), rng.normal(size=6)
    x = rng.normal(size=(2, 2, 4, 6, 5)).astype(np.float32)
    expected = np.array([conv(f, weight, 1, groups=2) for f in x]) + bias[:, None, None]
    node = nir.Conv2d((6, 5), weight, 1, 1, 1, 2, bias)
    found = run(chain((4, 6, 5), expected.shape[2:], conv=node), x)
    assert np.abs(found.outputs["output"] - expected).max() < 1e-12


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"stride": (2, 1), "padding": (0, 2), "dilation": (1, 2)}, (3, 3, 6)),
        ({"stride": 1, "padding": "same", "dilation": 1}, (3, 7, 6)),
        ({"stride": 1, "padding": "valid", "dilation": 2}, (3, 3, 2)),
    ],
)
def test_convolution_options_are_passed_on(options: Any, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(10)
    weight = rng.normal(size=(3, 2, 3, 3))
    x = rng.normal(size=(1, 2, 2, 7, 6)).astype(np.float32)
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(x[0]).double(), torch.from_numpy(weight), **options
    )
    node = nir.Conv2d((7, 6), weight, groups=1, bias=np.zeros(3), **options)
    found = run(chain((2, 7, 6), shape, conv=node), x)
    assert np.abs(found.outputs["output"][0] - expected.numpy()).max() < 1e-12


@pytest.mark.parametrize(
    ("start", "end", "shape"), [(0, -1, (24,)), (1, 2, (2, 12)), (0, 1, (6, 4)), (-2, -1, (2, 12))]
)
def test_flatten_counts_without_the_batch(start: int, end: int, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(11).normal(size=(2, 5, 2, 3, 4)).astype(np.float32)
    node = nir.Flatten(None, start, end)  # type: ignore[arg-type]
    found = run(chain((2, 3, 4), shape, flatten=node), x)
    assert (found.outputs["output"] == x.reshape(2, 5, *shape)).all()


def test_branches_are_summed_and_every_output_is_its_own() -> None:
    rng = np.random.default_rng(12)
    a, b = rng.normal(size=(2, 4, 3))
    nodes: Any = {
        "input": nir.Input({"input": port(3)}),
        "a": nir.Linear(a),
        "b": nir.Affine(b, np.ones(4)),
        "lif": lif(4),
        "out": nir.Output({"output": port(4)}),
        "spikes": nir.Output({"output": port(4)}),
    }
    edges = [
        ("input", "a"),
        ("input", "b"),
        ("a", "lif"),
        ("b", "lif"),
        ("lif", "spikes"),
        ("a", "out"),
        ("b", "out"),
    ]
    x = rng.normal(size=(9, 2, 3)).astype(np.float32)
    found = run(nir.NIRGraph(nodes, edges), x)
    v = np.zeros((2, 4))
    for t, frame in enumerate(x.astype(float)):
        drive = frame @ a.T + frame @ b.T + 1
        spikes, v = fire(0.5 * v + drive, 1, 0)
        assert np.abs(found.outputs["out"][t] - drive).max() < 1e-12
        assert (found.outputs["spikes"][t] == spikes).all()


@pytest.mark.parametrize("late", ["before", "behind"])
def test_recurrence_with_a_choice_of_the_delayed_edge(late: str) -> None:
    """Delayed before the Affine, the recurrent bias is there from the first step; behind it, it is not."""
    rng = np.random.default_rng(13)
    w, b = rng.normal(size=(5, 5)), rng.normal(size=5)
    nodes: Any = {
        "input": nir.Input({"input": port(5)}),
        "cell.lif": lif(5),
        "cell_lif": nir.Affine(w, b),
        "output": nir.Output({"output": port(5)}),
    }
    edges = [
        ("input", "cell.lif"),
        ("cell.lif", "cell_lif"),
        ("cell_lif", "cell.lif"),
        ("cell.lif", "output"),
    ]
    edge = (("cell.lif", "cell_lif") if late == "before" else ("cell_lif", "cell.lif"),)
    x = rng.normal(size=(30, 3, 5)).astype(np.float32)
    found = run(nir.NIRGraph(nodes, edges), x, Semantics(dt=DT, delayed_edges=edge))
    v, spikes = np.zeros((3, 5)), np.zeros((3, 5))
    for t, frame in enumerate(x.astype(float)):
        back = spikes @ w.T + b if t or late == "before" else 0
        spikes, v = fire(0.5 * v + frame + back, 1, 0)
        assert (found.spikes.rasters["cell.lif"][t] == spikes).all()


def test_self_edges_and_nested_graphs() -> None:
    inner: Any = {"in": nir.Input({"input": port(3)}), "lif": lif(3), "out": nir.Output({"output": port(3)})}
    sub = nir.NIRGraph(inner, [("in", "lif"), ("lif", "lif"), ("lif", "out")])
    x = np.random.default_rng(14).uniform(-0.5, 1, (20, 2, 3)).astype(np.float32)
    found = run(chain((3,), (3,), sub=sub), x)
    v, spikes = np.zeros((2, 3)), np.zeros((2, 3))
    for t, frame in enumerate(x.astype(float)):
        spikes, v = fire(0.5 * v + frame + spikes, 1, 0)
        assert (found.outputs["output"][t] == spikes).all()


def test_the_threshold_itself_does_not_fire() -> None:
    x = np.array([0.5, 0.75, 1.0, 0.5, 0.0], np.float32).reshape(5, 1, 1)
    found = run(chain((1,), (1,), lif=lif(1)), x)
    assert found.spikes.states["lif.v"].ravel().tolist() == [0.5, 1.0, 0.0, 0.5, 0.25]


def test_the_recording_of_norse_is_reproduced() -> None:
    if not RECORDED.exists():
        pytest.skip("recordings of other simulators are not here (shared/conformance)")
    rows = np.loadtxt(RECORDED / "01_lif/lif_norse.csv", delimiter=",", dtype=np.float32)
    program = read_program(RECORDED / "01_lif/lif_norse.nir", semantics=Semantics(dt=1e-4))
    found = deploy(program, "norse:float32").run_frames(rows[:, :1, None], Probe.everything(("1",)))
    assert found.stats.arithmetic == "float32"
    assert np.abs(found.spikes.states["1.v"].ravel() - rows[:, 1]).max() < 1e-7
    assert (found.spikes.rasters["1"].ravel() == rows[:, 2]).all()


@pytest.mark.parametrize(("recording", "rules"), [("norse", {}), ("snntorch", {"recurrent_bias": True})])
def test_recorded_braille_spikes_are_reproduced(recording: str, rules: Any) -> None:
    if not RECORDED.exists():
        pytest.skip("recordings of other simulators are not here (shared/conformance)")
    semantics = Semantics(1e-4, **rules)
    program = read_program(RECORDED / "03_rnn/braille_noDelay_bias_zero.nir", semantics=semantics)
    frames = np.load(RECORDED / "derived/03_rnn_input_sample0.npy")[:, None]
    spikes = np.load(RECORDED / f"03_rnn/{recording}_activity_noDelay_bias_zero.npy")
    found = deploy(program, "norse").run_frames(frames, Probe(spikes=frozenset({"lif1.lif"})))
    assert (found.spikes.rasters["lif1.lif"][:, 0] == spikes).sum() == 9728
    assert found.predictions.tolist() == [1]


def test_no_global_state_is_touched() -> None:
    graph, _ = convnet(np.random.default_rng(15))
    generator, default = torch.random.get_rng_state(), torch.get_default_dtype()
    x = np.zeros((2, 1, 1, 8, 8), np.float32)
    x.setflags(write=False)
    first = run(graph, x)
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert torch.get_default_dtype() is default
    assert torch.is_grad_enabled()
    assert first.stats.arithmetic == "float64"
    assert first.stats.target == "norse"
