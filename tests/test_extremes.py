"""Parameters that no step can be made of are refused in words, before anything is run or allocated."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import nir
import numpy as np
import pytest

from rsc.errors import InputRefused, UnsupportedNode
from rsc.hw_targets import deploy, get_target
from rsc.program import Program, Semantics

PORT = np.array([2])
TWO = np.ones(2)


def program(node: Any, dt: float = 1e-3, **rules: Any) -> Program:
    nodes: Any = {"input": nir.Input({"input": PORT}), "x": node, "output": nir.Output({"output": PORT})}
    return Program(nir.NIRGraph(nodes, list(pairwise(nodes)), type_check=False), Semantics(dt, **rules))


def lif(**changes: float) -> nir.LIF:
    values = {"tau": 2e-3, "r": 1.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0} | changes
    fields: Any = {k: v * TWO for k, v in values.items()}
    return nir.LIF(**fields)


EXTREMES = {
    "a delay in the wrong unit": (program(nir.Delay(1e9 * TWO)), "A delay of 1e+09 s is 1e+12 steps"),
    "an endless delay": (program(nir.Delay(1e300 * TWO), 1e-300), "A delay of 1e+300 s is inf steps"),
    "tau too short": (program(lif(tau=1e-320)), "alpha of one step is too large for float64"),
    "dt too long": (program(lif(), 1e306), "alpha of one step is too large for float64"),
    "r too large": (program(lif(r=1e308, tau=1e-4)), "beta of one step is too large for float64"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("spec", ["reference", "torch", "norse"])
@pytest.mark.parametrize("name", EXTREMES)
def test_extremes_are_refused_by_every_float_target(name: str, spec: str) -> None:
    extreme, said = EXTREMES[name]
    with pytest.raises(UnsupportedNode) as caught:
        deploy(extreme, spec)
    assert said in f"{caught.value}"
    assert caught.value.fix


@pytest.mark.parametrize(
    ("node", "said"),
    [(nir.Linear(1e200 * np.eye(2)), "weight is too large"), (lif(r=1e100), "beta of one step is too large")],
)
def test_what_float32_cannot_hold_is_refused_there_alone(node: Any, said: str) -> None:
    found = program(node)
    assert not [i for i in get_target("torch:float64").check(found) if i.severity == "error"]
    with pytest.raises(UnsupportedNode, match=f"{said} for float32"):
        deploy(found, "torch")


def test_a_long_delay_that_fits_runs() -> None:
    found = program(nir.Delay(100.0 * TWO))
    x = np.ones((3, 1, 2), np.float32)
    for spec in ("reference", "torch"):
        assert not deploy(found, spec).run_frames(x).outputs["output"].any()


def test_loops_of_matrices_have_no_loihi_form() -> None:
    nodes: Any = {
        "input": nir.Input({"input": PORT}),
        "a": nir.Linear(np.eye(2)),
        "b": nir.Linear(np.eye(2)),
        "output": nir.Output({"output": PORT}),
    }
    edges = [("input", "a"), ("a", "b"), ("b", "a"), ("b", "output")]
    loop = Program(nir.NIRGraph(nodes, edges), Semantics(1e-3, delayed_edges=(("b", "a"),)))
    assert deploy(loop, "reference").run_frames(np.ones((3, 1, 2), np.float32)).outputs["output"].any()
    for spec in ("loihi", "lava"):
        (issue,) = get_target(spec).check(loop)
        assert "loop without neurons" in issue.what
    with pytest.raises(InputRefused):
        deploy(loop, "loihi")
