"""The numpy target: coefficients, what it refuses, what it records. Results are in `conformance`."""

from __future__ import annotations

import math
from typing import Any

import nir
import numpy as np
import pytest

from rsc.discretise import coefficients, delay_steps
from rsc.errors import UnsupportedNode, UsageError
from rsc.hw_targets import deploy, get_target
from rsc.program import Program, Semantics
from rsc.results import Issue, Probe
from rsc.time_unit import time_issues

DT = 1e-3
EULER, EXACT = Semantics(DT), Semantics(DT, integrator="exponential")


def lif(n: int = 2, **changes: Any) -> nir.LIF:
    values = {"tau": 2 * DT, "r": 2.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0} | changes
    fields: Any = {k: np.broadcast_to(v, (n,)).astype(float) for k, v in values.items()}
    return nir.LIF(**fields)


def program(node: Any, semantics: Semantics = EULER, n: int = 2) -> Program:
    nodes = {
        "input": nir.Input({"input": np.array([n])}),
        "x": node,
        "output": nir.Output({"output": np.array([n])}),
    }
    return Program(nir.NIRGraph(nodes, [("input", "x"), ("x", "output")], type_check=False), semantics)


def found(node: Any, semantics: Semantics = EULER) -> list[Issue]:
    return get_target("reference").check(program(node, semantics))


def test_the_neuron_of_the_paper_is_exact() -> None:
    """v' = v/2 + I: tau = 2 dt and R = 2, without rounding."""
    k = coefficients(lif(), EULER)
    assert k.alpha.tolist() == [0.5, 0.5]
    assert k.beta.tolist() == [1.0, 1.0]
    assert k.c.tolist() == [0.0, 0.0]


def test_exponential_coefficients_are_the_exact_solution() -> None:
    k = coefficients(lif(tau=5 * DT, r=3.0, v_leak=0.7), EXACT)
    kept = math.exp(-0.2)
    np.testing.assert_allclose(k.alpha, kept, rtol=1e-15)
    np.testing.assert_allclose(k.beta, 3 * (1 - kept), rtol=1e-15)
    np.testing.assert_allclose(k.c, 0.7 * (1 - kept), rtol=1e-15)


def test_integrators_scale_with_the_step_under_both_rules() -> None:
    for semantics in (EULER, EXACT):
        k = coefficients(nir.I(np.array([4.0])), semantics)
        assert (k.alpha.item(), k.beta.item(), k.c.item()) == (1.0, 4.0 * DT, 0.0)


def test_synapses_have_coefficients_of_their_own() -> None:
    one = np.ones(1)
    node = nir.CubaLI(4 * DT * one, 2 * DT * one, 2 * one, 0 * one, 8 * one)
    k = coefficients(node, EULER)
    assert k.alpha_syn is not None
    assert k.beta_syn is not None
    assert (k.alpha_syn.item(), k.beta_syn.item()) == (0.75, 2.0)
    assert (k.alpha.item(), k.beta.item()) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("tau", "word"), [(20.0, "ms or time steps"), (0.5 * DT, "shorter than dt"), (1.0, "ms")]
)
def test_a_time_constant_in_another_unit_is_named(tau: float, word: str) -> None:
    (issue,) = time_issues("x", lif(tau=tau), EULER)
    assert issue.severity == "warning"
    assert word in issue.what


def test_a_tiny_step_hints_at_the_unit_too() -> None:
    assert time_issues("x", lif(tau=0.5), Semantics(1e-6))
    assert time_issues("x", lif(tau=0.5), EULER) == []


def test_delays_are_whole_steps_and_say_when_they_are_not() -> None:
    assert delay_steps(nir.Delay(np.array([0.0, 2e-3, 3.4e-3])), DT).tolist() == [0, 2, 3]
    assert time_issues("x", nir.Delay(np.array([3e-3])), Semantics(1e-4)) == []
    (issue,) = found(nir.Delay(np.array([2e-3, 3.4e-3])))
    assert "no multiple" in issue.what


@pytest.mark.parametrize(
    ("node", "word"),
    [
        (lif(tau=-1.0), "positive"),
        (lif(tau=0.0), "positive"),
        (lif(v_threshold=math.nan), "not finite"),
        (nir.Delay(np.array([-DT, 0.0])), "at least 0"),
        (nir.Affine(np.ones((2, 2)), np.ones(3)), "bias has shape"),
        (nir.Affine(np.ones((2, 2)), np.ones(2) * 1j), "complex"),
        (nir.Linear(np.ones((2, 3))), "does not fit"),
        (nir.Conv1d(2, np.ones((3, 1, 1)), 1, 0, 1, 2, np.ones(3)), "groups"),
    ],
)
def test_what_cannot_be_run_is_refused_before(node: Any, word: str) -> None:
    (error,) = [issue for issue in found(node) if issue.severity == "error"]
    assert word in error.what
    for target in ("reference", "torch"):
        with pytest.raises(UnsupportedNode, match=word):
            deploy(program(node), target)


def test_unknown_nodes_are_refused_by_name() -> None:
    class Odd(nir.Scale):
        """No primitive of NIR."""

    with pytest.raises(UnsupportedNode, match="Odd is no primitive"):
        deploy(program(Odd(np.ones(2))), "reference")


def test_subtraction_says_that_it_ignores_v_reset() -> None:
    soft = Semantics(DT, reset="subtract")
    assert [i.severity for i in found(lif(v_reset=0.5), soft)] == ["warning"]
    assert found(lif(), soft) == []


def test_a_cycle_says_which_edge_is_delayed() -> None:
    nodes = {
        "input": nir.Input({"input": np.array([2])}),
        "x": lif(),
        "output": nir.Output({"output": np.array([2])}),
    }
    loop = nir.NIRGraph(nodes, [("input", "x"), ("x", "x"), ("x", "output")], type_check=False)
    (issue,) = get_target("reference").check(Program(loop, EULER))
    assert issue.severity == "info"
    assert "x -> x" in issue.what


def test_a_graph_without_output_is_refused() -> None:
    nodes = {"input": nir.Input({"input": np.array([2])}), "x": lif()}
    with pytest.raises(UnsupportedNode, match="no Output"):
        deploy(Program(nir.NIRGraph(nodes, [("input", "x")], type_check=False), EULER), "reference")


@pytest.mark.parametrize("target", ["reference", "torch:float64", "torch"])
def test_records_hold_what_was_probed_and_no_more(target: str) -> None:
    x = np.full((4, 3, 2), 0.75, np.float32)
    model = deploy(program(lif()), target)
    # v: 0.75, 1.125 (fires, reset), 0.75, 1.125 (fires, reset)
    result = model.run_frames(x, Probe(frozenset(["x"]), frozenset(["x"])))
    assert result.spikes.rasters["x"][:, 0, 0].tolist() == [False, True, False, True]
    assert result.spikes.rasters["x"].dtype == bool
    assert result.spikes.states["x.v"][:, 0, 0].tolist() == [0.75, 0.0, 0.75, 0.0]
    assert result.spikes.counts["x"].tolist() == [[2, 2]] * 3
    assert result.spikes.counts["x"].dtype == np.int64
    assert result.outputs["output"].dtype == np.float64
    bare = model.run_frames(x, Probe(counts=False)).spikes
    assert (dict(bare.counts), dict(bare.rasters), dict(bare.states)) == ({}, {}, {})


@pytest.mark.parametrize("target", ["reference", "torch:float64"])
def test_the_synaptic_current_is_a_state(target: str) -> None:
    one = np.ones(1)
    node = nir.CubaLIF(2 * DT * one, 2 * DT * one, 2 * one, 0 * one, 9 * one, 0 * one, 2 * one)
    x = np.zeros((3, 1, 1), np.float32)
    x[0] = 1
    result = deploy(program(node, n=1), target).run_frames(x, Probe(states=frozenset(["x"])))
    assert result.spikes.states["x.i"].ravel().tolist() == [1.0, 0.5, 0.25]
    assert result.spikes.states["x.v"].ravel().tolist() == [1.0, 1.0, 0.75]


def test_the_target_takes_no_options() -> None:
    with pytest.raises(UsageError, match="no option"):
        get_target("reference:float32")
