"""`rsc lint`: every rule on a graph that breaks it and one that does not; Norse's importer as the judge."""

from __future__ import annotations

import copy
import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import nir
import numpy as np
import pytest
import torch
from peers import PEERS, peer

from rsc.errors import UsageError
from rsc.export import loihi
from rsc.export.lint import RULES, TOOLS, Activity, Finding, blocking, lint, read_source
from rsc.export.writer import write_program
from rsc.hw_targets import deploy
from rsc.presets import PRESETS, preset
from rsc.program import EncoderSpec, Program, Semantics
from rsc.results import Issue

DT = 1e-4
RNG = np.random.default_rng(5)
W = RNG.normal(size=(3, 3))
RECORDED = Path(__file__).resolve().parents[2] / "shared" / "conformance" / "01_lif"
DOCS = Path(__file__).resolve().parents[1] / "docs" / "lint.md"


def graph(nodes: dict[str, Any], *edges: str) -> nir.NIRGraph:
    return nir.NIRGraph(nodes, [(e.split()[0], e.split()[1]) for e in edges], type_check=False)


def ends(shape: tuple[int, ...] = (3,), out: tuple[int, ...] = (3,)) -> dict[str, Any]:
    return {"input": nir.Input({"input": np.array(shape)}), "output": nir.Output({"output": np.array(out)})}


def chain(*nodes: Any, shape: tuple[int, ...] = (3,), out: tuple[int, ...] = (3,)) -> nir.NIRGraph:
    named = {f"n{i}": node for i, node in enumerate(nodes)}
    names = ["input", *named, "output"]
    return graph(ends(shape, out) | named, *(f"{a} {b}" for a, b in pairwise(names)))


def neuron(kind: type, shape: tuple[int, ...] = (3,), **changes: Any) -> Any:
    values: dict[str, Any] = {"r": 1 / DT} if kind is nir.IF else {"r": 1.0, "v_leak": 0.0}
    if kind in (nir.LI, nir.LIF):
        values["tau"] = 20 * DT
    if kind is nir.CubaLIF:
        values |= {"tau_mem": 20 * DT, "tau_syn": 10 * DT, "w_in": 10.0, "r": 20.0}
    if kind is not nir.LI:
        values |= {"v_threshold": 0.2, "v_reset": 0.0}
    fields: Any = {k: np.broadcast_to(v, shape).astype(float).copy() for k, v in (values | changes).items()}
    return kind(**fields)


def affine(bias: float = 0.0) -> nir.Affine:
    return nir.Affine(W, np.full(3, bias))


def conv(**changes: Any) -> nir.Conv2d:
    groups = changes.get("groups", 1)
    weight = RNG.normal(size=(2, 2 // groups, 3, 3))
    fields: dict[str, Any] = {
        "stride": 1,
        "padding": 0,
        "dilation": 1,
        "groups": 1,
        "bias": np.zeros(2),
    } | changes
    return nir.Conv2d((6, 6), weight, **fields)


def pool(padding: int) -> nir.SumPool2d:
    return nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([padding, padding]))


def recurrent(bias: float) -> nir.NIRGraph:
    nodes = ends() | {"a": affine(), "w": affine(bias), "n": neuron(nir.LIF)}
    return graph(nodes, "input a", "a n", "n w", "w n", "n output")


def joined() -> nir.NIRGraph:
    nodes = ends() | {"a": affine(), "b": nir.Affine(W.T.copy(), np.zeros(3)), "n": neuron(nir.LIF)}
    return graph(nodes, "input a", "input b", "a n", "b n", "n output")


def populations() -> nir.NIRGraph:
    nodes = ends() | {"a": affine(), "n": neuron(nir.LIF), "m": neuron(nir.LIF), "v": affine(), "w": affine()}
    return graph(nodes, "input a", "a n", "n v", "v m", "m w", "w n", "m output")


def two_outputs() -> nir.NIRGraph:
    nodes = ends() | {"a": affine(), "second": nir.Output({"output": np.array([3])})}
    return graph(nodes, "input a", "a output", "a second")


def renamed(before: str, after: str) -> nir.NIRGraph:
    made = chain(affine(), neuron(nir.LIF))
    made.nodes = {after if k == before else k: v for k, v in made.nodes.items()}
    made.edges = [(after if a == before else a, after if b == before else b) for a, b in made.edges]
    return made


def program(of: nir.NIRGraph, **semantics: Any) -> Program:
    fields: dict[str, Any] = {"dt": DT} | semantics
    return Program(of, Semantics(**fields))


LIF = chain(affine(), neuron(nir.LIF))
STEP = chain(affine(), neuron(nir.LIF, r=20.0))
CUBA = chain(affine(), neuron(nir.CubaLIF))
SUBTRACT = program(LIF, reset="subtract")
BIAS_AT_ONCE = program(recurrent(0.5), recurrent_bias=True)
WHOLE = chain(nir.Affine(np.eye(3), np.zeros(3)), neuron(nir.LIF))
UNEVEN = np.array([0.1, 0.2, 0.3])
FLATTEN = chain(nir.Flatten({"input": np.array([1, 3])}, 0, -1), neuron(nir.LIF), shape=(1, 3))
ENCODED = Program(LIF, Semantics(dt=DT), EncoderSpec("rsc2", 4, 0.1))
QUIET: dict[str, Any] = {"activity": Activity({"n1": np.zeros((2, 3), int)}, 5)}
SOME = {"activity": Activity({"n1": np.ones((2, 3), int)}, 5)}
ISSUES = {"issues": {"torch": [Issue("error", "n0", "No.", "Do.")]}}
SILENT = {"issues": {"torch": []}}
HUGE = chain(nir.Affine(W, np.array([0.0, 3e3, 0.0])), neuron(nir.LIF))
NOT_LOIHI = {"issues": {"loihi": []}}

# rule, target ("" = any), severity, (what breaks it, arguments), (what does not, arguments)
CASES: list[tuple[str, str, str, tuple[Any, dict[str, Any]], tuple[Any, dict[str, Any]]]] = [
    ("unsupported-node", "norse-file", "error", (chain(affine(), neuron(nir.LI)), {}), (LIF, {})),
    ("unsupported-node", "snntorch", "error", (chain(affine(), neuron(nir.IF)), {}), (LIF, {})),
    ("unsupported-node", "lava-dl", "error", (chain(nir.Linear(W)), {}), (chain(affine()), {})),
    ("target-check", "torch", "error", (LIF, ISSUES), (LIF, SILENT)),
    ("ports", "snntorch", "error", (two_outputs(), {}), (LIF, {})),
    ("node-name", "", "error", (renamed("n0", "a/b"), {}), (renamed("n0", "a.b"), {})),
    ("node-name", "spyx", "error", (renamed("input", "in"), {}), (LIF, {})),
    ("scalar-parameter", "", "warning", (chain(nir.Threshold(np.array(1.0))), {}), (LIF, {})),
    ("no-dt", "", "warning", (LIF, {"declared": False}), (LIF, {})),
    ("time-unit", "", "warning", (chain(affine(), neuron(nir.LIF, tau=20.0)), {}), (LIF, {})),
    ("dt-mismatch", "snntorch", "warning", (program(LIF, dt=1e-3), {}), (LIF, {})),
    ("dt-mismatch", "spikingjelly", "info", (program(LIF, dt=1e-3), {}), (LIF, {})),
    ("dt-mismatch", "rockpool", "warning", (CUBA, {}), (chain(neuron(nir.CubaLIF, r=19.0)), {})),
    ("integrator", "nengo", "warning", (LIF, {}), (program(LIF, integrator="exponential"), {})),
    ("input-gain", "", "warning", (chain(affine(), neuron(nir.IF, r=1.0)), {}), (LIF, {})),
    ("ignored-r", "norse-file", "warning", (STEP, {}), (LIF, {})),
    ("ignored-r", "sinabs", "warning", (LIF, {}), (STEP, {})),
    ("ignored-r", "spikingjelly", "error", (chain(affine(), neuron(nir.LIF, r=2.0)), {}), (STEP, {})),
    ("ignored-w-in", "spikingjelly", "error", (chain(neuron(nir.CubaLIF, w_in=1.0)), {}), (CUBA, {})),
    ("one-value-per-layer", "snntorch", "error", (chain(neuron(nir.LIF, v_threshold=UNEVEN)), {}), (LIF, {})),
    ("one-value-per-layer", "snntorch", "warning", (chain(neuron(nir.LIF, tau=UNEVEN)), {}), (LIF, {})),
    ("one-value-per-layer", "nengo", "warning", (chain(neuron(nir.LIF, tau=UNEVEN)), {}), (LIF, {})),
    ("parameter-axes", "sinabs", "error", (chain(neuron(nir.LIF, (1, 3)), shape=(1, 3)), {}), (LIF, {})),
    ("lost-v-leak", "snntorch", "error", (chain(neuron(nir.LIF, v_leak=0.1)), {}), (LIF, {})),
    ("lost-v-reset", "norse-file", "warning", (chain(neuron(nir.LIF, v_reset=-0.1)), {}), (LIF, {})),
    ("reset-rule", "", "info", (SUBTRACT, {}), (LIF, {})),
    ("reset-rule", "norse-file", "warning", (SUBTRACT, {}), (LIF, {})),
    ("reset-rule", "sinabs", "warning", (LIF, {}), (SUBTRACT, {})),
    ("initial-state", "norse-file", "warning", (chain(affine(), neuron(nir.LIF, v_leak=0.1)), {}), (LIF, {})),
    ("unknown-rule", "snntorch", "warning", (program(LIF, clamp="all"), {}), (LIF, {})),
    ("export-fault", "", "warning", (STEP, {}), (LIF, {})),
    ("threshold-ties", "sinabs", "info", (LIF, {}), (program(LIF, comparison=">="), {})),
    ("threshold-ties", "sinabs", "warning", (WHOLE, {}), (LIF, {})),
    ("recurrence", "snntorch", "warning", (recurrent(0.0), {}), (LIF, {})),
    ("recurrence", "spikingjelly", "warning", (populations(), {}), (recurrent(0.0), {})),
    ("recurrent-bias", "norse-file", "warning", (BIAS_AT_ONCE, {}), (recurrent(0.5), {})),
    ("recurrent-bias", "spyx", "warning", (recurrent(0.5), {}), (recurrent(0.0), {})),
    ("branches", "norse-file", "warning", (joined(), {}), (recurrent(0.0), {})),
    ("flatten-batch", "snntorch", "warning", (FLATTEN, {}), (LIF, {})),
    ("pool-padding", "sinabs", "warning", (chain(pool(1), shape=(2, 6, 6)), {}), (chain(pool(0)), {})),
    ("grouped-convolution", "", "warning", (chain(conv(groups=2)), {}), (chain(conv()), {})),
    ("grouped-convolution", "spyx", "error", (chain(conv(groups=2)), {}), (chain(conv()), {})),
    ("bias-refused", "lava-dl", "error", (chain(conv(bias=np.ones(2))), {}), (chain(conv()), {})),
    (
        "integer-weights",
        "spikingjelly",
        "error",
        (chain(nir.Linear(np.eye(3, dtype=np.int8))), {}),
        (LIF, {}),
    ),
    ("weight-bits", "loihi", "warning", (HUGE, NOT_LOIHI), (STEP, NOT_LOIHI)),
    ("activity", "", "warning", (LIF, QUIET), (LIF, SOME)),
    ("encoder", "snntorch", "info", (ENCODED, {}), (LIF, {})),
]


def found(of: Any, target: str, arguments: dict[str, Any]) -> list[tuple[str, str, str]]:
    whole = of if isinstance(of, Program) else program(of)
    return [(f.rule, f.target, f.severity) for f in lint(whole, [target] if target else [], **arguments)]


@pytest.mark.parametrize(("rule", "target", "severity", "bad", "good"), CASES, ids=lambda v: str(v)[:20])
def test_a_rule_speaks_where_it_should_and_only_there(
    rule: str, target: str, severity: str, bad: tuple[Any, Any], good: tuple[Any, Any]
) -> None:
    assert (rule, target, severity) in found(bad[0], target, bad[1])
    assert (rule, target, severity) not in found(good[0], target, good[1])


def test_every_rule_has_a_case_and_a_line_in_the_manual() -> None:
    assert {case[0] for case in CASES} == set(RULES)
    text = DOCS.read_text()
    assert [rule for rule in RULES if f"`{rule}`" not in text] == []
    assert [name for name in TOOLS if f"`{name}`" not in text] == []


IMAGE: dict[str, Any] = {"shape": (2, 6, 6), "out": (2, 4, 4)}
FILES: dict[str, nir.NIRGraph] = {
    "r = 1": LIF,
    "r = tau/dt": STEP,
    "thresholds differ": chain(affine(), neuron(nir.LIF, v_threshold=UNEVEN)),
    "time constants differ": chain(affine(), neuron(nir.LIF, tau=UNEVEN / 50)),
    "v_leak": chain(affine(), neuron(nir.LIF, v_leak=0.1)),
    "v_reset": chain(affine(), neuron(nir.LIF, v_reset=-0.2)),
    "IF with 1/dt": chain(affine(), neuron(nir.IF, v_threshold=2.0)),
    "IF with r = 1": chain(affine(), neuron(nir.IF, r=1.0)),
    "CubaLIF": CUBA,
    "CubaLIF with w_in 1 and r 1": chain(affine(), neuron(nir.CubaLIF, w_in=1.0, r=1.0)),
    "CubaLIF with v_leak": chain(affine(), neuron(nir.CubaLIF, v_leak=0.1, v_threshold=5.0)),
    "LI": chain(affine(), neuron(nir.LI)),
    "Linear": chain(nir.Linear(W), neuron(nir.LIF)),
    "branches": joined(),
    "recurrent": recurrent(0.0),
    "recurrent bias": recurrent(0.7),
    "two populations": populations(),
    "convolution": chain(conv(), neuron(nir.LIF, (2, 4, 4)), **IMAGE),
    "grouped": chain(conv(groups=2), neuron(nir.LIF, (2, 4, 4)), **IMAGE),
    "pooling": chain(pool(0), neuron(nir.LIF, (2, 3, 3)), shape=(2, 6, 6), out=(2, 3, 3)),
    "padded pooling": chain(pool(1), neuron(nir.LIF, (2, 4, 4)), **IMAGE),
    "flatten": chain(nir.Flatten({"input": np.array([2, 6, 6])}, 0, -1), shape=(2, 6, 6), out=(72,)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tool", [name for name in PEERS if name in TOOLS])
@pytest.mark.parametrize("name", FILES)
def test_findings_are_what_the_tool_does(name: str, tool: str) -> None:
    """A tool's own importer agrees with the program exactly where nothing serious is found."""
    missing = peer(tool).available()
    if missing is not None:
        pytest.skip(f"{missing.reason} {missing.fix}")
    of = program(FILES[name])
    frames = (np.random.default_rng(3).random((80, 2, *of.input_shape)) < 0.5).astype(np.float32)
    with deploy(of, "reference") as model:
        expected = model.run_frames(frames).outputs["output"]
    assert expected.any() or name == "IF with r = 1"
    try:
        with torch.no_grad():
            got = peer(tool).load(of.to_graph(), DT)(torch.from_numpy(frames)).numpy()
        agrees = got.shape == expected.shape and np.allclose(got, expected, atol=1e-5)
    except Exception:
        agrees = False
    serious = [f.rule for f in lint(of, [tool]) if f.target and f.severity != "info"]
    assert bool(serious) == (not agrees), serious


HABITS: list[dict[str, Any]] = [
    *({"clamp": "all"}, {"input_gain": "one"}, {"input_gain": "leak"}, {"current": "old"}),
    *({"shift": "spikes"}, {"reset_step": "hold"}, {"reset_step": "next"}, {"v0": "v_leak"}),
    *({"spikes_per_step": "many"}, {"integrator": "exponential"}, {"integrator": "mixed"}),
    *({"comparison": ">="}, {"reset": "zero"}, {"reset": "subtract"}, {"recurrent_bias": True}),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tool", [name for name in PEERS if name in TOOLS])
def test_rules_that_a_tool_lacks_are_found_and_its_own_are_not(tool: str) -> None:
    """A tool that differs is warned of, whatever the rule; one that agrees under its own preset is not."""
    missing = peer(tool).available()
    if missing is not None:
        pytest.skip(f"{missing.reason} {missing.fix}")
    agreed = differed = 0
    for name, graph in FILES.items():
        if name in ("convolution", "grouped", "pooling", "padded pooling", "flatten"):
            continue  # their neurons are those of the others
        x = (np.random.default_rng(3).random((80, 2, 3)) < 0.5).astype(np.float32)
        try:
            with torch.no_grad():
                got = peer(tool).load(copy.deepcopy(graph), DT)(torch.from_numpy(x)).numpy()
        except Exception:
            continue
        for rules in (None, *HABITS):
            told = preset(TOOLS[tool].preset, DT) if rules is None else Semantics(DT, **rules)
            of = Program(graph, told)
            expected = deploy(of, "torch:float64").run_frames(x).outputs["output"]
            agrees = got.shape == expected.shape and np.allclose(got, expected, atol=1e-5)
            found = [f.rule for f in lint(of, [tool], told=True) if f.target and f.severity != "info"]
            if not agrees:
                differed += 1
                assert found, (name, rules)
            elif rules is None:
                agreed += 1
                assert set(found) <= {"dt-mismatch"}, (name, found)  # the unit of tau is not a rule
    assert agreed > 2
    assert differed > 20


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_linted_for_every_tool(name: str) -> None:
    for graph in (
        LIF,
        CUBA,
        recurrent(0.5),
        chain(affine(), neuron(nir.IF)),
        chain(affine(), neuron(nir.LI)),
    ):
        graph = graph.graph if isinstance(graph, Program) else graph
        lint(Program(graph, preset(name, DT)), list(TOOLS))


def test_what_is_known_of_a_tool_is_what_its_preset_does() -> None:
    for tool in TOOLS.values():
        if tool.preset:
            rules = PRESETS[tool.preset].rules
            decay = "euler" if rules.get("integrator", "euler") == "euler" else "exponential"
            assert (tool.comparison, tool.decay) == (rules.get("comparison", ">"), decay), tool.name
            assert tool.reset == rules.get("reset", "value"), tool.name


def test_the_worst_comes_first_and_errors_block() -> None:
    findings = lint(program(chain(affine(), neuron(nir.LI))), list(TOOLS))
    order = [("error", "warning", "info").index(f.severity) for f in findings]
    assert order == sorted(order)
    assert blocking(findings) == [f for f in findings if f.severity == "error"] != []
    assert findings == msgspec.json.decode(msgspec.json.encode(findings), type=list[Finding])
    assert all(f.what.endswith(".") and f.why.endswith(".") and f.fix for f in findings)


def test_unknown_and_unchecked_targets_are_refused() -> None:
    with pytest.raises(UsageError, match="Did you mean 'snntorch'"):
        lint(program(LIF), ["sntorch"])
    with pytest.raises(UsageError, match="issues of their check"):
        lint(program(LIF), ["loihi"])


def test_targets_only_get_what_concerns_them() -> None:
    findings = lint(program(STEP), ["norse-file", "sinabs"])
    assert {f.target for f in findings} <= {"", "norse-file", "sinabs"}


def test_always_firing_layers_are_found_and_halves_are_notes() -> None:
    full = Activity({"n1": np.full((2, 3), 5)}, 5)
    part = Activity({"n1": np.array([[0, 0, 1], [0, 0, 2]])}, 5)
    of = program(LIF)
    assert [f.what for f in lint(of, activity=full)] == ["All neurons always fire in 5 steps on 2 samples."]
    assert [f.severity for f in lint(of, activity=part)] == ["info"]


def test_the_trained_program_fits_loihi(program: Program) -> None:
    findings = lint(program, ["loihi"], issues={"loihi": loihi.check(program)})
    assert blocking(findings) == []
    assert {f.rule for f in findings} == {"target-check"}


def test_a_recurrent_bias_is_noted_with_the_step_it_starts_at() -> None:
    choices: list[tuple[dict[str, Any], str]] = [
        ({}, "second"),
        ({"recurrent_bias": True}, "first"),
        ({"delayed_edges": (("n", "w"),)}, "first"),
    ]
    for rules, step in choices:
        of = dataclasses.replace(program(recurrent(0.5)), semantics=Semantics(dt=DT, **rules))
        (note,) = [f for f in lint(of) if f.rule == "recurrent-bias"]
        assert f"from the {step} step" in note.why
    assert "recurrent-bias" not in {f.rule for f in lint(program(recurrent(0.0)))}


def test_a_file_without_a_time_step_can_be_linted(tmp_path: Path) -> None:
    foreign, ours = tmp_path / "foreign.nir", tmp_path / "ours.nir"
    nir.write(foreign, LIF)
    write_program(program(LIF, dt=2e-3), ours)
    assumed, declared = read_source(foreign)
    assert "no-dt" in {f.rule for f in lint(assumed, declared=declared)}
    assert (read_source(foreign, dt=5e-4)[0].semantics.dt, read_source(foreign, dt=5e-4)[1]) == (5e-4, True)
    assert (read_source(ours)[0], read_source(ours)[1]) == (program(LIF, dt=2e-3), True)


def test_names_from_a_file_cannot_format_messages() -> None:
    of = program(renamed("n1", "{dt}[red]"), dt=1e-3)
    assert {f.node for f in lint(of, ["norse-file", "sinabs"])} <= {"", "{dt}[red]", "n0"}


@pytest.mark.skipif(not RECORDED.is_dir(), reason=f"the recordings are not at {RECORDED}")
@pytest.mark.parametrize("name", ["norse-file", "snntorch", "sinabs", "rockpool", "spyx"])
def test_recorded_spikes_differ_where_something_is_found(name: str) -> None:
    """Recordings of one LIF neuron by other simulators (artefacts of the NIR paper), dt 1e-4 s."""
    given = np.loadtxt(RECORDED / "lif_norse.csv", delimiter=",")[:, 0]
    recorded = np.loadtxt(RECORDED / f"lif_{name.removesuffix('-file')}.csv", delimiter=",")[:, 2]
    of, _ = read_source(RECORDED / "lif_norse.nir", DT)
    with deploy(of, "reference") as model:
        spikes = model.run_frames(given[:, None, None].astype(np.float32)).outputs["output"].ravel()
    serious = [f.rule for f in lint(of, [name]) if f.target and f.severity != "info"]
    assert spikes.sum() == recorded.sum() == 4
    assert bool(serious) == (not np.array_equal(spikes, recorded)), serious
