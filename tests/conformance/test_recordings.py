"""Recordings made by other simulators (NIR paper artefacts), reproduced without one differing cell.

The rules, shifts and tolerances are those of the README that lies with the recordings.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import nir
import numpy as np
import pytest
from graphs import chain

from rsc.hw_targets import deploy
from rsc.presets import preset
from rsc.program import Program, Semantics
from rsc.results import Probe

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "conformance"
TARGETS = ("reference", "torch:float64", "torch:float32")
DT, TAU, LIMIT = 1e-4, 2.5e-3, 0.1
K, KEPT = DT / TAU, math.exp(-DT / TAU)

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"the recordings are not at {FOLDER}")


@dataclasses.dataclass(frozen=True)
class Rule:
    """How a simulator stepped the neuron of 01_lif, in the terms of a program.

    Fields:
        r, threshold: of the LIF; together with the integrator they give the simulator's own update.
        unit: v of the program per unit of the recorded v.
        late: the input arrives one step late.
        tolerance: in units of the threshold, and of float32 runs at least 1e-5.
    """

    integrator: str = "euler"
    reset: str = "value"
    r: float = 1.0
    threshold: float = LIMIT
    unit: float = 1.0
    late: bool = False
    tolerance: float = 1e-6


RULES = {
    "norse": Rule(),
    "snntorch": Rule(r=1 / K, threshold=LIMIT / K),
    # its weight is rounded to 102 levels of 102.02
    "spinnaker2": Rule(r=0.999804 / K, threshold=LIMIT / K, tolerance=1e-5),
    "nengo": Rule(integrator="exponential", unit=LIMIT),
    "lava_cpu_float": Rule(late=True),
    # both decay exactly and weigh the input as Euler does
    "rockpool": Rule(integrator="exponential", reset="subtract", r=K / (1 - KEPT)),
    "sinabs": Rule(integrator="exponential", reset="subtract", r=K / (1 - KEPT)),
}


def table(name: str) -> np.ndarray:
    """Recorded columns input, v, spike of 01_lif."""
    return np.loadtxt(FOLDER / "01_lif" / f"lif_{name}.csv", delimiter=",")


def lif(rule: Rule) -> Program:
    """The graph of 01_lif under a simulator's rule."""
    one, zero = np.ones(1), np.zeros(1)
    neuron = nir.LIF(TAU * one, rule.r * one, zero, rule.threshold * one, zero)
    of = chain((1,), (1,), w=nir.Affine(np.ones((1, 1)), zero), n=neuron)
    delayed = (("input", "w"),) if rule.late else None
    return Program(of, Semantics(DT, rule.integrator, rule.reset, delayed_edges=delayed))  # type: ignore[arg-type]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", RULES)
def test_voltages_and_spikes_of_one_neuron(name: str, target: str) -> None:
    rule, recorded = RULES[name], table(name)
    frames = table("norse")[:, 0].reshape(-1, 1, 1)
    result = deploy(lif(rule), target).run_frames(frames, Probe(states=frozenset(["n"])))
    np.testing.assert_array_equal(result.outputs["output"].ravel() > 0, recorded[:, 2] > 0)
    v = result.spikes.states["n.v"].ravel() / rule.unit
    unit = rule.threshold / rule.unit
    np.testing.assert_allclose(v / unit, recorded[:, 1] / unit, rtol=0, atol=_slack(rule, target))


def _slack(rule: Rule, target: str) -> float:
    return max(rule.tolerance, 1e-5) if target.endswith("float32") else rule.tolerance


@pytest.mark.parametrize("target", TARGETS)
def test_the_file_itself_gives_the_recorded_spikes(target: str) -> None:
    program = Program.from_graph(nir.read(FOLDER / "01_lif" / "lif_norse.nir"), semantics=Semantics(DT))
    frames = table("norse")[:, 0].reshape(-1, 1, 1)
    spikes = deploy(program, target).run_frames(frames).outputs["output"].ravel()
    assert np.flatnonzero(spikes).tolist() == [460, 510, 710, 760]
    # The exact event-driven solution resets inside a step and still fires in the same steps.
    assert np.flatnonzero(table("exact")[:, 2]).tolist() == [460, 510, 710, 760]


@dataclasses.dataclass(frozen=True)
class Tool:
    """What a recording of 01_lif holds beside the preset's rule.

    Fields:
        scale: of the input it was fed; its own v is in the same unit.
        unit: v of the program per unit of the recorded v.
    """

    scale: float = 1.0
    unit: float = 1.0


TOOLS = {
    "norse": Tool(),
    "snntorch": Tool(unit=K),
    "spyx": Tool(),
    "sinabs": Tool(scale=K),
    "rockpool": Tool(),
    "lava": Tool(),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", TOOLS)
def test_a_preset_runs_the_file_as_the_simulator_did(name: str, target: str) -> None:
    tool, recorded = TOOLS[name], table({"lava": "lava_cpu_float"}.get(name, name))
    graph = nir.read(FOLDER / "01_lif" / "lif_norse.nir")
    program = Program.from_graph(graph, semantics=preset(name, DT))
    (neuron,) = (name for name, node in program.graph.nodes.items() if isinstance(node, nir.LIF))
    frames = tool.scale * table("norse")[:, 0].reshape(-1, 1, 1)
    result = deploy(program, target).run_frames(frames, Probe(states=frozenset([neuron])))
    np.testing.assert_array_equal(result.outputs["output"].ravel() > 0, recorded[:, 2] > 0)
    np.testing.assert_allclose(recorded[:, 0], tool.scale * table("norse")[:, 0], rtol=0, atol=1e-8)
    v, slack = result.spikes.states[f"{neuron}.v"].ravel() / LIMIT, 1e-5 if target[-2:] == "32" else 1e-6
    np.testing.assert_allclose(v, recorded[:, 1] * tool.unit / LIMIT, rtol=0, atol=slack)


# recording -> (semantics, steps by which the recording is late)
BRAILLE = {
    "norse": (Semantics(DT), 0),
    "snntorch": (Semantics(DT, recurrent_bias=True), 0),
    "spyx": (Semantics(DT, reset="subtract", recurrent_bias=True), 1),
    "snntorch preset": (preset("snntorch", DT), 0),
    "norse preset": (preset("norse", DT), 0),
    "spyx preset": (preset("spyx-recurrent", DT), 1),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", BRAILLE)
def test_hidden_spikes_of_a_recurrent_network(name: str, target: str) -> None:
    semantics, late = BRAILLE[name]
    folder = FOLDER / "03_rnn"
    recorded = np.load(folder / f"{name.split()[0]}_activity_noDelay_bias_zero.npy").squeeze() > 0
    frames = np.load(FOLDER / "derived" / "03_rnn_input_sample0.npy")[:, None]
    program = Program.from_graph(nir.read(folder / "braille_noDelay_bias_zero.nir"), semantics=semantics)
    result = deploy(program, target).run_frames(frames, Probe(spikes=frozenset(["lif1.lif"])))
    spikes = result.spikes.rasters["lif1.lif"][:, 0]
    np.testing.assert_array_equal(spikes[: len(spikes) - late], recorded[late:])
    assert result.predictions.tolist() == [1]


def test_output_counts_of_the_recurrent_network() -> None:
    program = Program.from_graph(
        nir.read(FOLDER / "03_rnn" / "braille_noDelay_bias_zero.nir"), semantics=preset("snntorch", DT)
    )
    frames = np.load(FOLDER / "derived" / "03_rnn_input_sample0.npy")[:, None]
    outputs = deploy(program, "reference").run_frames(frames).outputs["output"]
    assert outputs.sum((0, 1)).tolist() == [10, 160, 112, 113, 103, 68, 121]


def test_a_convolutional_file_runs_alike_on_both() -> None:
    program = Program.from_graph(nir.read(FOLDER / "02_cnn" / "cnn_sinabs.nir"), semantics=Semantics(1.0))
    frames = np.random.default_rng(0).random((6, 1, *program.input_shape)) < 0.2
    a = deploy(program, "reference").run_frames(frames)
    b = deploy(program, "torch:float64").run_frames(frames)
    assert a.spikes.counts["6"].sum() > 0
    for name, counts in a.spikes.counts.items():
        np.testing.assert_array_equal(counts, b.spikes.counts[name])
