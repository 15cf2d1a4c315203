"""A trained program on real Lava: the integer model bit for bit, the float reference up to rounding."""

from __future__ import annotations

import numpy as np
import pytest

from rsc import data
from rsc.hw_targets import deploy, get_target, lava_env
from rsc.program import Program
from rsc.results import Keys, Probe, RunResult

STATUS = lava_env.status()
pytestmark = [
    pytest.mark.lava,
    pytest.mark.skipif(not STATUS.available, reason=f"{STATUS.reason} {STATUS.fix}"),
]


def run(program: Program, on: str, images: np.ndarray) -> RunResult:
    with deploy(program, on) as model:
        return model.run(images, Keys(7, np.arange(len(images))), Probe.everything(program.node_names))


def test_fixed_point_is_the_integer_model_bit_for_bit(program: Program, digits: data.Dataset):
    lava, loihi = run(program, "lava", digits.images), run(program, "loihi", digits.images)
    assert lava.frames_digest == loihi.frames_digest
    assert np.array_equal(lava.logits, loihi.logits)
    for kind in ("counts", "rasters", "states"):
        ours, theirs = getattr(lava.spikes, kind), getattr(loihi.spikes, kind)
        assert set(ours) == set(theirs)
        assert all(np.array_equal(ours[k], theirs[k]) for k in ours), kind
    assert any(counts.any() for node, counts in lava.spikes.counts.items() if node not in program.inputs)


def test_floating_point_is_the_reference_up_to_rounding(program: Program, digits: data.Dataset):
    lava, reference = run(program, "lava:float", digits.images), run(program, "reference", digits.images)
    np.testing.assert_allclose(lava.logits, reference.logits, atol=1e-9)
    for node, counts in reference.spikes.counts.items():
        assert np.array_equal(lava.spikes.counts[node], counts), node


def test_what_is_checked_can_be_compiled(program: Program):
    target = get_target("lava:runtime")
    assert not [issue for issue in target.check(program) if issue.severity == "error"]
    with target.compile(program) as model:
        assert model.target == "lava"
        assert model.version.startswith("lava-nc 0.10.0")
