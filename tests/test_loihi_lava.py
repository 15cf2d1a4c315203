"""The integer model is Lava's fixed point bit for bit, over random NIR graphs and random layers.

`conformance/test_matrix.py` compares the two on the cases of the conformance table.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent / "conformance"))

from loihi_lava import GRAPHS, LAYERS, TOGETHER, compared, drawn, lava_missing, random_layers

from rsc.layered import LayeredProgram

pytestmark = [pytest.mark.lava, pytest.mark.skipif(bool(lava_missing()), reason=lava_missing())]


@pytest.fixture(scope="module")
def graphs() -> list[LayeredProgram]:
    """All of them."""
    found = drawn(GRAPHS)
    assert len(found) == GRAPHS
    return found


@pytest.mark.parametrize("part", range(GRAPHS // TOGETHER))
def test_random_graphs(part: int, graphs: list[LayeredProgram]) -> None:
    rng = np.random.default_rng(part)
    assert compared(graphs[part * TOGETHER : (part + 1) * TOGETHER], rng) > 2_000


@pytest.mark.parametrize("part", range(LAYERS // TOGETHER))
def test_random_layers(part: int) -> None:
    """Kernels, delays of synapses, parameters of every size: u wraps, v saturates."""
    made, rng = random_layers(part)
    assert compared(made, rng, 12) > 2_000
