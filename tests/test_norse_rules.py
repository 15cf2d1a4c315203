"""What of a program Norse refuses, and how r and other rules are rewritten for it."""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
import pytest
from norse_networks import DT, EULER, chain, fire, lif, port, run

from rsc.errors import UnsupportedNode, UsageError
from rsc.graph import topology
from rsc.hw_targets import deploy, get_target
from rsc.hw_targets.norse import NorseTarget
from rsc.hw_targets.norse_gain import Gains, gains
from rsc.hw_targets.norse_lower import KNOWN_RULES
from rsc.program import Program, Semantics
from rsc.results import Probe
from rsc.shapes import infer_shapes, input_shapes

ONES: Any = np.ones(2)
GRID: Any = np.ones((2, 3))


@pytest.mark.parametrize(
    ("graph", "semantics", "said"),
    [
        (chain((2,), (2,), x=nir.LI(ONES, ONES, ONES)), EULER, "does not import LI"),
        (chain((2,), (2,), x=nir.CubaLI(ONES, ONES, ONES, ONES)), EULER, "does not import CubaLI"),
        (chain((2,), (2,), x=nir.I(ONES)), EULER, "does not import I"),
        (chain((2,), (2,), x=nir.Threshold(ONES)), EULER, "does not import Threshold"),
        (chain((2,), (2,), x=nir.Delay(ONES * DT)), EULER, "does not import Delay"),
        (
            chain((1, 4), (1, 4), x=nir.Conv1d(4, np.ones((1, 1, 1)), 1, 0, 1, 1, np.zeros(1))),
            EULER,
            "Conv1d",
        ),
        (chain((2,), (2,), x=lif(2)), Semantics(dt=DT, integrator="exponential"), "forward Euler"),
        (chain((2,), (2,), x=lif(2)), Semantics(dt=DT, comparison=">="), ">="),
        (chain((2,), (2,), x=nir.IF(ONES, ONES)), Semantics(dt=DT, reset="subtract"), "resets to a value"),
        (chain((2, 3), (2, 3), x=nir.Scale(GRID)), EULER, "scale differs within a channel"),
        (chain((2, 3), (2, 3), x=nir.IF(-GRID, GRID)), EULER, "r is not positive and differs within"),
        (chain((2,), (2,), x=lif(2, tau=-1.0)), EULER, "positive"),
        (chain((3, 2), (3, 2), x=nir.Linear(np.ones((3, 2, 2)))), EULER, "3 axes"),
    ],
)
def test_what_norse_cannot_do_exactly_is_refused(
    graph: nir.NIRGraph, semantics: Semantics, said: str
) -> None:
    program = Program(graph, semantics)
    errors = [i for i in NorseTarget().check(program) if i.severity == "error"]
    assert errors
    assert all(i.node == "x" for i in errors)
    assert said in errors[0].what
    assert errors[0].fix
    with pytest.raises(UnsupportedNode, match="norse"):
        deploy(program, "norse")


def test_two_inputs_unfed_nodes_and_long_chains_are_refused() -> None:
    two: Any = {
        "a": nir.Input({"input": port(2)}),
        "b": nir.Input({"input": port(2)}),
        "o": nir.Output({"output": port(2)}),
    }
    unfed: Any = {"a": two["a"], "o": two["o"], "l": lif(2), "p": nir.Output({"output": port(2)})}
    long = chain((2,), (2,), **{f"n{i}": nir.Linear(np.eye(2)) for i in range(1500)})
    for graph, said in (
        (nir.NIRGraph(two, [("a", "o"), ("b", "o")]), "2 inputs"),
        (nir.NIRGraph(unfed, [("a", "o"), ("l", "p")], type_check=False), "No edge leads to it"),
        (long, "limit"),
    ):
        issues = NorseTarget().check(Program(graph, EULER))
        assert any(said in i.what and i.severity == "error" for i in issues)


def test_runs_start_afresh_and_probes_limit_what_is_kept() -> None:
    model = get_target("norse").compile(Program(chain((2,), (2,), lif=lif(2)), EULER))
    x = np.full((3, 4, 2), 0.8, np.float32)
    a, b = (model.run_frames(x, Probe(counts=False)) for _ in range(2))
    assert (a.outputs["output"] == b.outputs["output"]).all()
    assert not a.spikes.counts
    assert not a.spikes.rasters
    assert not a.spikes.states


def test_unknown_options_are_refused() -> None:
    for spec in ("norse:float16", "norse:float32:float64"):
        with pytest.raises(UsageError):
            get_target(spec)
    assert get_target("norse").available() is None


@pytest.mark.parametrize("shape", [(5,), (3, 4, 4)])
def test_a_resistance_of_any_sign_and_a_scale_are_put_before_the_neuron(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(41)
    each = (shape[0], *[1] * (len(shape) - 1))
    r, s = rng.uniform(-3, 3, each), rng.uniform(-2, 2, each)
    r.flat[0] = 0
    r, s = (np.broadcast_to(value, shape).copy() for value in (r, s))
    nodes: Any = {"s": nir.Scale(s), "n": lif(*shape, r=r, v_leak=0.4)}
    nodes["m"] = nir.IF(-100 * np.abs(r) - 1, np.full(shape, 0.3), np.full(shape, -0.1))
    x = rng.uniform(-2, 2, (40, 2, *shape)).astype(np.float32)
    found = run(chain(shape, shape, **nodes), x)
    v, w = np.zeros(x.shape[1:]), np.zeros(x.shape[1:])
    for t, frame in enumerate(x.astype(float)):
        spikes, v = fire(v + 0.5 * (0.4 - v + r * s * frame), 1, 0)
        assert np.abs(found.spikes.states["n.v"][t] - v).max() < 1e-12
        second, w = fire(w + DT * (-100 * np.abs(r) - 1) * spikes, 0.3, -0.1)
        assert (found.outputs["output"][t] == second).all()
    assert found.spikes.rasters["n"].any()


HABITS = [
    {"reset": "zero"},
    {"v0": "v_leak"},
    {"input_gain": "leak"},
    {"input_gain": "one"},
    {"shift": "spikes"},
    {"shift": "weights"},
    {"recurrent_bias": True},
    {"reset": "zero", "v0": "v_leak", "input_gain": "leak"},  # all of Norse's own
]


@pytest.mark.parametrize("rules", HABITS, ids=str)
def test_habits_that_norse_can_follow(rules: dict[str, Any]) -> None:
    """The rules themselves are held against loops in test_presets; the reference stands in for them here."""
    rng = np.random.default_rng(42)
    ones: Any = np.ones(4)
    nodes: Any = {
        "input": nir.Input({"input": port(4)}),
        "n": lif(4, r=[0.5, 1, 2, 3], v_leak=[0.3, -0.5, 0.2, 0], v_reset=0.1, v_threshold=0.6),
        "w": nir.Affine(rng.normal(size=(4, 4)), rng.normal(size=4)),
        "a": nir.Affine(2 * rng.normal(size=(4, 4)), rng.normal(size=4)),
        "m": nir.IF(300 * ones, ones, -0.2 * ones),
        "output": nir.Output({"output": port(4)}),
    }
    edges = [("input", "n"), ("n", "w"), ("w", "n"), ("n", "a"), ("a", "m"), ("m", "output")]
    x = rng.uniform(-1, 2, (50, 3, 4)).astype(np.float32)
    semantics = Semantics(DT, **rules)
    of = nir.NIRGraph(nodes, edges)
    found, expected = (run(of, x, semantics, spec) for spec in ("norse", "reference"))
    plain = run(of, x, EULER, "reference")
    assert set(rules) <= set(KNOWN_RULES) | {"reset"}
    for name in ("n", "m"):
        np.testing.assert_array_equal(found.spikes.rasters[name], expected.spikes.rasters[name])
        difference = found.spikes.states[f"{name}.v"] - expected.spikes.states[f"{name}.v"]
        assert np.abs(difference).max() < 1e-12
    assert any((plain.spikes.states[f"{n}.v"] != expected.spikes.states[f"{n}.v"]).any() for n in ("n", "m"))


def where(graph: nir.NIRGraph) -> Gains:
    flat = topology(graph, EULER)
    return gains(flat, input_shapes(flat, infer_shapes(flat)), EULER)


def test_r_goes_where_it_costs_least_and_ties_stay_ties() -> None:
    """On dyadic numbers everything is exact, so that v meets the threshold to the last bit."""
    thirds = {"r": 3.0, "v_threshold": 1.5}
    eye: Any = np.eye(2)
    pools: Any = {"kernel_size": port(1, 1), "stride": port(1, 1), "padding": port(0, 0)}
    both = {"out": nir.Output({"output": port(2)})}
    heard = chain((2,), (2,), w=nir.Linear(eye), n=lif(2, **thirds))
    heard = nir.NIRGraph(heard.nodes | both, [*heard.edges, ("w", "out")], type_check=False)
    kernel = nir.Conv2d((2, 2), np.ones((2, 2, 1, 1)), 1, 0, 1, 1, np.ones(2))
    grid = lif(2, 2, 2, r=np.arange(1.0, 9).reshape(2, 2, 2), v_threshold=1.5)
    cases = {
        "unit": chain((2,), (2,), w=nir.Linear(eye), n=lif(2, r=4.0, v_threshold=1.5)),
        "weights": chain((2,), (2,), w=nir.Affine(eye, np.array([1.0, -0.5])), n=lif(2, **thirds)),
        "weights of a kernel": chain((2, 2, 2), (2, 2, 2), w=kernel, n=lif(2, 2, 2, **thirds)),
        "before": chain((2,), (2,), n=lif(2, **thirds)),
        "before, as w is heard outside": heard,
        "rounded": chain((2, 2, 2), (2, 2, 2), p=nir.SumPool2d(**pools), n=grid),
    }
    rng = np.random.default_rng(43)
    for name, of in cases.items():
        found = where(of)
        field = name.split()[0].rstrip(",")
        assert {f for f in ("weights", "before", "rounded") if getattr(found, f)} == {field} - {"unit"}, name
        x = rng.integers(-4, 8, (30, 2, *of.nodes["input"].input_type["input"])).astype(np.float32) / 4
        norse, reference = (run(of, x, EULER, spec) for spec in ("norse", "reference"))
        if name != "rounded":
            assert set(norse.outputs) == set(reference.outputs)
            for key, value in reference.outputs.items():
                np.testing.assert_array_equal(norse.outputs[key], value, err_msg=name)
            np.testing.assert_array_equal(norse.spikes.states["n.v"], reference.spikes.states["n.v"])
        assert 0.02 < reference.spikes.rasters["n"].mean() < 0.98


def test_an_r_that_rounds_is_told_and_one_that_fits_nowhere_is_refused() -> None:
    wide = chain((5000,), (5000,), n=lif(5000, r=3.0))
    assert [i.severity for i in NorseTarget().check(Program(wide, EULER)) if "unit" in i.what] == ["info"]
    assert where(chain((5000,), (5000,), n=lif(5000, r=-3.0))).refused == ("n",)
