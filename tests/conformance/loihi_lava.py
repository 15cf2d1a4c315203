"""`loihi` held against `lava`: the cases of the table and random programs, bit by bit.

Both targets quantise, so no case can say what must come out; but they must agree in every spike, u and v of
every step. Programs are put side by side into one network, so that Lava starts once for dozens of them.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import lava_networks
import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_graphs import FIRING, STEPS, programs
from table import CASES, GROUPS

from rsc.export.loihi import check, lower
from rsc.hw_targets import lava_env
from rsc.hw_targets.lava import LavaModel
from rsc.hw_targets.loihi import LoihiModel
from rsc.layered import CONSTANT, Layer, LayeredProgram
from rsc.program import Program
from rsc.quantiser import Quantiser
from rsc.results import Probe

GRAPHS, LAYERS = 200, 120  # how many random graphs and random layered programs are compared
TOGETHER = 40  # programs in one network
SAMPLES = 2
EIGHTHS = 8.0  # payload units per unit of the frames, which are mostly eighths

Verdict = Literal["exact", "deviates", "refused"]


@dataclasses.dataclass(frozen=True)
class Missing:
    """Something of NIR, or of a rule, that has no form on Loihi.

    Fields:
        said: words of the check's message.
        why: the reason, for readers of the page.
        cases: the rows that need it.
    """

    said: str
    why: str
    cases: tuple[str, ...]


MISSING = (
    Missing(
        "fire at >=",
        "firing at `>=`: neurons of Loihi and Lava compare with `>`",
        ("threshold, >=", "LIF per neuron, >=", "IF per neuron, >=, subtract", "IF, at least"),
    ),
    Missing(
        "reset by subtraction",
        "reset by subtraction: they reset to 0, and so to any value, but not by an amount",
        ("LIF per neuron, subtract", "CubaLIF per neuron, subtract", "IF, subtract"),
    ),
    Missing(
        "hands on the input",
        "an Input that leads to an Output as it is: only what neurons say is read out",
        ("two inputs, two outputs", "edges are summed", "nodes that nothing feeds"),
    ),
    Missing(
        "loop without neurons",
        "a loop without a neuron: nothing else has a state",
        (
            *("cycle without neuron, delay named", "cycle through a Delay of [2, 2, 2]"),
            "cycle through a Delay of [1, 3, 2]",
        ),
    ),
    Missing(
        "takes more steps on Loihi",
        "a loop with more connections than steps: every connection takes a step of its own",
        ("two populations, one of them heard at once",),
    ),
    Missing(
        "only spikes travel",
        "a membrane that is handed on to another node: only spikes travel",
        ("two kinds of neuron in a loop",),
    ),
)
REFUSED = {name: missing for missing in MISSING for name in missing.cases}


def side_by_side(parts: Sequence[LayeredProgram]) -> LayeredProgram:
    """Programs as one, names with the number of theirs in front."""

    def named(i: int, name: str) -> str:
        return name if name == CONSTANT else f"{i}.{name}"

    def moved(i: int, layer: Layer) -> Layer:
        synapses = tuple(dataclasses.replace(c, source=named(i, c.source)) for c in layer.connections)
        return dataclasses.replace(layer, name=named(i, layer.name), connections=synapses)

    return LayeredProgram(
        parts[0].arithmetic,
        tuple(moved(i, layer) for i, part in enumerate(parts) for layer in part.layers),
        tuple(
            dataclasses.replace(s, name=named(i, s.name)) for i, part in enumerate(parts) for s in part.inputs
        ),
        tuple(
            (named(i, output), tuple(named(i, term) for term in terms))
            for i, part in enumerate(parts)
            for output, terms in part.outputs
        ),
    )


def everything(
    model: LoihiModel | LavaModel, whole: LayeredProgram, frames: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Counts, spikes, u, v and outputs of a run, each under the name of its layer first."""
    names = frozenset(layer.name for layer in whole.layers)
    found = model._steps(frames, Probe(spikes=names, states=names))
    values = {f"{name}.counts": v for name, v in found.spikes.counts.items()}
    values |= {f"{name}.spikes": v for name, v in found.spikes.rasters.items()}
    return values | dict(found.spikes.states) | {f"{name}.output": v for name, v in found.outputs.items()}


def agreement(
    parts: Sequence[LayeredProgram], frames: Mapping[str, np.ndarray]
) -> tuple[list[list[str]], int]:
    """For each program what differs between `loihi` and `lava`, and how many values were compared.

    Args:
        frames: for "i.input" of all parts, [T, B, ...] alike.
    """
    whole = side_by_side(parts)
    ours = everything(LoihiModel(None, whole, torch.device("cpu")), whole, frames)
    theirs = everything(LavaModel.from_layered(whole), whole, frames)
    differing: list[list[str]] = [[] for _ in parts]
    for key in sorted({*ours, *theirs}):
        if key not in ours or key not in theirs or not np.array_equal(ours[key], theirs[key]):
            number, name = key.split(".", 1)
            differing[int(number)].append(name)
    return differing, sum(values.size for values in ours.values())


def compared(parts: Sequence[LayeredProgram], rng: np.random.Generator, steps: int = STEPS) -> int:
    """The values of all programs on random frames, -3 to 3; AssertionError where one differs."""
    inputs = side_by_side(parts).inputs
    frames = {s.name: rng.integers(-3, 4, (steps, SAMPLES, *s.shape)).astype(np.float32) for s in inputs}
    differing, total = agreement(parts, frames)
    assert not any(differing), {i: names for i, names in enumerate(differing) if names}
    return total


def drawn(count: int, quantiser: Quantiser | None = None) -> list[LayeredProgram]:
    """Random NIR graphs that have a form on Loihi, as integers."""
    found: list[LayeredProgram] = []

    @settings(
        max_examples=4 * count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    @given(st.data())
    def collect(data: st.DataObject) -> None:
        program = data.draw(programs(plain=True, kinds=FIRING))
        program = dataclasses.replace(program, quantiser=quantiser)
        if len(found) < count and not any(issue.severity == "error" for issue in check(program)):
            found.append(lower(program))

    collect()
    return found


def random_layers(part: int) -> tuple[list[LayeredProgram], np.random.Generator]:
    """Kernels, delays of synapses, parameters of every size: u wraps, v saturates; and what draws frames."""
    rng = np.random.default_rng(100 + part)
    return [lava_networks.random_program(rng, "integer") for _ in range(TOGETHER)], rng


def rows(names: Iterable[str] = CASES) -> dict[str, Verdict]:
    """Every case of the table: whether the targets agree on its frames, taken in eighths.

    The frames of all are lengthened with zeros to the longest; what differs then differs, too.
    """
    lowered: dict[str, LayeredProgram] = {}
    found: dict[str, Verdict] = {}
    for name in names:
        case = CASES[name]
        program = Program(case.graph, case.semantics, quantiser=Quantiser(input_scale=EIGHTHS))
        if any(issue.severity == "error" for issue in check(program)):
            found[name] = "refused"
        else:
            lowered[name] = lower(program)
    frames = {}
    for i, name in enumerate(lowered):
        given_frames = CASES[name].frames
        for source in lowered[name].inputs:
            values = given_frames[source.name] if isinstance(given_frames, Mapping) else given_frames
            frames[f"{i}.{source.name}"] = np.asarray(values, np.float32)
    lead = np.max([values.shape[:2] for values in frames.values()], axis=0)
    for name, values in frames.items():
        more = [(0, int(n - m)) for n, m in zip(lead, values.shape[:2], strict=True)]
        frames[name] = np.pad(values, [*more, *((0, 0) for _ in values.shape[2:])])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        differing, _ = agreement(list(lowered.values()), frames)
    found |= {name: "deviates" if rest else "exact" for name, rest in zip(lowered, differing, strict=True)}
    return {name: found[name] for name in names}


def missing_page() -> list[str]:
    """Lines of a table: what has no form on Loihi, and the rows of the main table that are about it."""
    lines = ["| has no form on Loihi | rows of the table |", "|---|---|"]
    for missing in MISSING:
        about = [group for group, names in GROUPS.items() if set(names) & set(missing.cases)]
        lines.append(f"| {missing.why} | {'; '.join(about)} |")
    return lines


def beyond() -> list[str]:
    """Lines of a table: random programs, all of them compared here and now."""
    graphs = drawn(GRAPHS)
    assert len(graphs) == GRAPHS
    for part in range(GRAPHS // TOGETHER):
        compared(graphs[part * TOGETHER : (part + 1) * TOGETHER], np.random.default_rng(part))
    for part in range(LAYERS // TOGETHER):
        compared(*random_layers(part), 12)
    return beyond_page()


def beyond_page() -> list[str]:
    """What `beyond` gives if no value differs."""
    return [
        "| beyond the table | `loihi` = `lava` |",
        "|---|---|",
        f"| {GRAPHS} random NIR graphs of firing neurons, {STEPS} steps | exact |",
        f"| {LAYERS} random layered programs (kernels, pooling, delays per synapse, loops, constants; in one "
        "of eight u wraps and v saturates), 12 steps | exact |",
    ]


def lava_missing() -> str:
    """Why Lava cannot run here, "" if it can."""
    status = lava_env.status()
    return "" if status.available else f"{status.reason} {status.fix}"
