"""The integer model is Lava's fixed point bit for bit, over random NIR graphs and random layers.

Programs are put side by side into one network, so that Lava starts once for dozens of them.
"""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import lava_networks
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent / "conformance"))

from random_graphs import FIRING, STEPS, programs
from table import CASES

from rsc.export.loihi import check, lower
from rsc.hw_targets import lava_env
from rsc.hw_targets.lava import LavaModel
from rsc.hw_targets.loihi import LoihiModel
from rsc.layered import CONSTANT, Layer, LayeredProgram
from rsc.program import Program
from rsc.results import Probe

STATUS = lava_env.status()
pytestmark = [
    pytest.mark.lava,
    pytest.mark.skipif(not STATUS.available, reason=f"{STATUS.reason} {STATUS.fix}"),
]
SAMPLES = 2
TOGETHER = 40  # programs in one network


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


def compared(parts: Sequence[LayeredProgram], rng: np.random.Generator, steps: int = STEPS) -> int:
    """Every s, u and v of both; how many values there were."""
    whole = side_by_side(parts)
    frames = {
        s.name: rng.integers(-3, 4, (steps, SAMPLES, *s.shape)).astype(np.float32) for s in whole.inputs
    }
    names = frozenset(layer.name for layer in whole.layers)
    probe = Probe(spikes=names, states=names)
    ours = LoihiModel(None, whole, torch.device("cpu"))._steps(frames, probe)
    theirs = LavaModel.from_layered(whole)._steps(frames, probe)
    total = 0
    for kind in ("counts", "rasters", "states"):
        mine, other = getattr(ours.spikes, kind), getattr(theirs.spikes, kind)
        assert set(mine) == set(other), kind
        for key, value in mine.items():
            np.testing.assert_array_equal(value, other[key], err_msg=key)
            total += value.size
    assert set(ours.outputs) == set(theirs.outputs)
    for key, value in ours.outputs.items():
        np.testing.assert_array_equal(value, theirs.outputs[key], err_msg=key)
    return total


def drawn(count: int) -> list[LayeredProgram]:
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
        if len(found) < count and not any(issue.severity == "error" for issue in check(program)):
            found.append(lower(program))

    collect()
    return found


@pytest.fixture(scope="module")
def graphs() -> list[LayeredProgram]:
    """200 of them."""
    found = drawn(200)
    assert len(found) == 200
    return found


@pytest.mark.parametrize("part", range(5))
def test_random_graphs(part: int, graphs: list[LayeredProgram]) -> None:
    rng = np.random.default_rng(part)
    assert compared(graphs[part * TOGETHER : (part + 1) * TOGETHER], rng) > 2_000


@pytest.mark.parametrize("part", range(3))
def test_random_layers(part: int) -> None:
    """Kernels, delays of synapses, parameters of every size: u wraps, v saturates."""
    rng = np.random.default_rng(100 + part)
    made = [lava_networks.random_program(rng, "integer") for _ in range(TOGETHER)]
    assert compared(made, rng, 12) > 2_000


def test_the_conformance_table() -> None:
    lowered = []
    for case in CASES.values():
        program = Program(case.graph, case.semantics)
        if not [issue for issue in check(program) if issue.severity == "error"]:
            lowered.append(lower(program))
    assert len(lowered) > 75
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert compared(lowered, np.random.default_rng(7), 8) > 20_000
