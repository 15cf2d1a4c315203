"""Every rule of `Semantics` that other simulators brought along, against loops over single neurons."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import nir
import numpy as np
import pytest
import torch
from rule_networks import DT, TARGETS, XS, X, chain, given, h_of, lif, taken

from rsc.discretise import EVERY_RULE, SPECIAL
from rsc.errors import UnsupportedNode, UsageError
from rsc.export import synapses
from rsc.hw_targets import deploy, get_target
from rsc.hw_targets.norse_lower import KNOWN_RULES
from rsc.hw_targets.torch import TorchModel
from rsc.hw_targets.torch_fire import rule_scan
from rsc.neurons.scan import Fire, Leak
from rsc.presets import PRESETS, preset, under
from rsc.program import Program, Semantics


def recurrent(bias: float) -> nir.NIRGraph:
    """input -> w -> n <-> a: weights 1 and -1/2, alpha 1/2, beta 3/2, c 1/8."""
    nodes = {"input": given(), "w": nir.Linear(np.ones((1, 1))), "n": lif()}
    nodes |= {"a": nir.Affine(-np.ones((1, 1)) / 2, np.array([bias])), "output": taken()}
    edges = [("input", "w"), ("w", "n"), ("n", "a"), ("a", "n"), ("n", "output")]
    return nir.NIRGraph(nodes, edges)


# rules -> steps by which the output, the weighted input and the weighted spikes are late, and
# whether the bias is there before any spike could be.
CIRCUITS: list[tuple[dict[str, Any], int, int, int, bool]] = [
    ({}, 0, 0, 1, False),
    ({"recurrent_bias": True}, 0, 0, 1, True),
    ({"shift": "spikes"}, 1, 0, 1, True),
    ({"shift": "weights"}, 0, 1, 1, False),
    ({"shift": "weights", "recurrent_bias": True}, 0, 1, 1, False),
]


@pytest.mark.parametrize(("rules", "out", "into", "back", "at_once"), CIRCUITS)
def test_delays_of_a_recurrent_circuit(
    rules: dict[str, Any], out: int, into: int, back: int, at_once: bool
) -> None:
    v, spikes = 0.0, []
    for t in range(len(XS)):
        x = XS[t - into] if t >= into else 0.0
        feedback = 0.5 - 0.5 * spikes[t - back] if t >= back else (0.5 if at_once else 0.0)
        h = h_of(v, x + feedback)
        spikes.append(float(h > 0.75))
        v = 0.25 if h > 0.75 else h
    expected = [0.0] * out + spikes[: len(spikes) - out]
    program = Program(recurrent(0.5), Semantics(DT, **rules))
    for target in TARGETS:
        assert deploy(program, target).run_frames(X).outputs["output"].ravel().tolist() == expected
    assert 0 < sum(spikes) < len(spikes)


def test_rules_of_delay_keep_the_edges_that_are_named() -> None:
    rules: dict[str, Any] = {"shift": "weights", "delayed_edges": (("n", "output"),)}
    named, late = (
        deploy(Program(recurrent(0.5), semantics), "reference").run_frames(X).outputs["output"]
        for semantics in (Semantics(DT, **rules), Semantics(DT, shift="weights"))
    )
    np.testing.assert_array_equal(named[1:], late[:-1])


NOT_DEFAULT: dict[str, Any] = {
    "reset_step": "next",
    "spikes_per_step": "many",
    "clamp": "all",
    "v0": "v_leak",
    "input_gain": "one",
    "current": "old",
    "shift": "spikes",
    "recurrent_bias": True,
    "integrator": "mixed",
    "reset": "zero",
}


def test_every_special_rule_is_tried() -> None:
    assert {"integrator": "mixed", "reset": "zero"}.items() <= NOT_DEFAULT.items()
    assert set(SPECIAL) | {"integrator", "reset"} == set(NOT_DEFAULT)
    assert set(EVERY_RULE) == set(SPECIAL) | {"mixed", "zero"}


@pytest.mark.parametrize(("field", "value"), NOT_DEFAULT.items())
def test_a_target_that_does_not_know_a_rule_refuses_it(field: str, value: Any) -> None:
    program = Program(chain(lif()), Semantics(DT, **{field: value}))
    for target, known in (("norse", KNOWN_RULES), ("loihi", synapses.KNOWN_RULES)):
        refused = [i for i in get_target(target).check(program) if f"{field} = {value!r}" in i.what]
        assert bool(refused) == (value not in known and field not in known)
        if refused:
            with pytest.raises(UnsupportedNode, match=f"{field} = {value!r}"):
                get_target(target).compile(program)
    assert not [i for i in get_target("torch").check(program) if i.severity == "error"]


@pytest.mark.parametrize("rules", [{"spikes_per_step": "many"}, {"clamp": "if"}])
def test_spikes_are_counted_in_positive_thresholds(rules: dict[str, Any]) -> None:
    program = Program(chain(lif(v_threshold=-0.5)), Semantics(DT, **rules))
    for target in ("reference", "torch"):
        with pytest.raises(UnsupportedNode, match="v_threshold goes down to"):
            deploy(program, target)


def test_a_value_that_no_rule_has_is_refused() -> None:
    with pytest.raises(UsageError, match="clamp = 'never'"):
        Semantics(DT, clamp="never")  # type: ignore[arg-type]


def test_rules_at_their_defaults_leave_the_digest_as_it_was() -> None:
    program = Program(chain(lif()), Semantics(DT))
    assert program.metadata_json() == (
        b'{"semantics":{"dt":0.0009765625,"integrator":"euler","reset":"value","comparison":">",'
        b'"readout":"mean","delayed_edges":null},"encoder":null,"bounds":null,"labels":[],"version":1}'
    )
    spelt = Program(program.graph, Semantics(DT, clamp="none", shift="none", recurrent_bias=False))
    assert spelt.digest == program.digest


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_its_file_and_differs_from_the_others(name: str) -> None:
    semantics = preset(name, 1e-4)
    program = Program(chain(lif()), semantics)
    again = Program.from_graph(program.to_graph())
    assert (again.semantics, again.digest) == (semantics, program.digest)
    assert [other for other in PRESETS if preset(other, 1e-4) == semantics] == [name]
    assert set(PRESETS[name].rules) <= {field.name for field in msgspec.structs.fields(Semantics)}


def test_an_unknown_preset_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'snntorch'"):
        preset("snntorhc", 1e-4)
    with pytest.raises(UsageError, match="dt is 0"):
        preset("norse", 0)


def test_a_program_under_a_preset_keeps_its_time_step_and_readout() -> None:
    given = Semantics(DT, "exponential", readout="last", delayed_edges=(("n", "output"),))
    program = Program(chain(lif()), given, labels=("one",))
    other = under(program, "rockpool")
    assert other.semantics == msgspec.structs.replace(preset("rockpool", DT), readout="last")
    assert (other.labels, other.graph.edges) == (program.labels, program.graph.edges)


def gradient(rules: dict[str, Any], x: torch.Tensor, detach: bool = True) -> torch.Tensor:
    """d(sum of weighted spikes)/dx; X of one sample."""
    model = deploy(Program(chain(lif()), Semantics(DT, **rules)), "torch:float64")
    assert isinstance(model, TorchModel)
    model.module.detach_reset = detach
    x = x.clone().requires_grad_()
    spikes = model.module(x)
    (spikes * torch.arange(1.0, len(x) + 1).double().reshape(-1, 1, 1)).sum().backward()
    assert x.grad is not None
    return x.grad.ravel()


@pytest.mark.parametrize(("x", "nearest"), [(0.1, 1), (0.75, 2), (1.5, 3), (-2.0, 1)])
def test_the_derivative_of_a_count_is_the_surrogate_at_the_nearest_threshold(x: float, nearest: int) -> None:
    model = deploy(Program(chain(lif()), Semantics(DT)), "torch:float64")
    assert isinstance(model, TorchModel)
    h = h_of(0.0, x)
    expected = 1.5 * model.module.surrogate(torch.tensor([h - nearest * 0.75]).double())
    frame = torch.full((1, 1, 1), x).double()
    found = gradient({"spikes_per_step": "many", "reset": "subtract"}, frame)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("reset", ["value", "subtract"])
def test_rules_that_change_nothing_leave_the_gradient_as_it_was(reset: str, detach: bool) -> None:
    x = torch.from_numpy(np.abs(X))
    plain = gradient({"reset": reset}, x, detach)
    bounded = gradient({"reset": reset, "clamp": "all"}, x, detach)
    torch.testing.assert_close(plain, bounded)
    assert plain.abs().min() > 0


def test_the_membrane_after_a_reset_inside_the_step_has_its_own_derivative() -> None:
    """Against finite differences, at no, one and several crossings, with and without a leak."""
    rules = Semantics(DT, "exponential", reset_step="crossing")
    x = torch.tensor([[0.1, 0.7, 2.3, -1.0, 4.4]], dtype=torch.float64, requires_grad=True)
    v = torch.tensor([0.5, 0.3, 0.6, 0.2, 0.1], dtype=torch.float64, requires_grad=True)
    fire = Fire(0.75, 0.25, detach_reset=False)
    for rate in (0.5, 0.0):
        kept = math.exp(-rate)
        leak = Leak(kept, 3 * (1 - kept) if rate else 0.7, 0.05)

        def membrane(x: torch.Tensor, v: torch.Tensor, leak: Leak = leak, rate: float = rate) -> torch.Tensor:
            return rule_scan(x, v, leak, fire, rules, None, rate)[1]

        spikes = rule_scan(x, v, leak, fire, rules, None, rate)[0]
        assert 0 < spikes.sum() < 5
        assert torch.autograd.gradcheck(membrane, (x, v))
    detached = rule_scan(x, v, leak, Fire(0.75, 0.25), rules, None, 0.0)
    (slope,) = torch.autograd.grad(detached[1].sum(), x)
    assert ((slope == 0) == (detached[0] > 0)).all()


def test_the_manual_names_every_rule_and_preset() -> None:
    text = (Path(__file__).parent.parent / "docs" / "nir.md").read_text()
    fields = {field.name for field in msgspec.structs.fields(Semantics)} - {"readout"}
    assert [name for name in (*fields, *PRESETS) if f"`{name}`" not in text] == []
