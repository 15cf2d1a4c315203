"""Parity of targets: what must be equal is, and a fault is found and placed."""

from __future__ import annotations

import copy
import hashlib

import numpy as np
import pytest

from rsc.coding import encode
from rsc.data import Dataset
from rsc.errors import UsageError
from rsc.hw_targets import deploy, get_target
from rsc.parity import compare, spike_mismatch
from rsc.program import Program
from rsc.results import Keys

ALL = ("reference", "torch", "torch:float64", "norse", "loihi", "lava", "lava:float")


def available(specs: tuple[str, ...]) -> list[str]:
    found = [spec for spec in specs if get_target(spec).available() is None]
    if set(specs) != set(found):
        pytest.skip(f"not available here: {sorted(set(specs) - set(found))}")
    return found


def test_every_target_receives_the_same_frames(program: Program, digits: Dataset) -> None:
    """One digest for all, that of the encoder's own frames."""
    small, keys = digits.head(2), Keys(3, digits.ids[:2])
    assert program.encoder is not None
    frames = encode(program.encoder, small.images, keys)
    sha = hashlib.sha256(f"input {frames.shape}".encode() + frames.tobytes()).hexdigest()
    for spec in ALL:
        if get_target(spec).available() is None:
            with deploy(program, spec) as model:
                assert model.run(small.images, keys).frames_digest == sha, spec


@pytest.mark.parametrize(
    "pair", [("reference", "torch:float64"), ("reference", "norse"), ("reference", "lava:float")]
)
def test_float_targets_fire_the_same_spikes(pair: tuple[str, str], program: Program, digits: Dataset) -> None:
    models = [(spec, deploy(program, spec)) for spec in available(pair)]
    (row,) = compare(program, models, x=digits.images, keys=Keys(0, digits.ids))
    assert row.exact
    assert spike_mismatch(row) == 0
    assert sum(n.compared for n in row.nodes if n.signal == "s") == 4 * 16 * (4 * 64 + 8 * 16)


@pytest.mark.lava
@pytest.mark.parametrize("lava", ["lava", "lava:conv", "lava:runtime"])
def test_integer_model_equals_lava_in_s_u_and_v(lava: str, program: Program, digits: Dataset) -> None:
    part = digits.head(4)
    models = [(spec, deploy(program, spec)) for spec in available(("loihi", lava))]
    (row,) = compare(program, models, x=part.images, keys=Keys(0, part.ids))
    assert row.exact
    assert {(n.node, n.signal) for n in row.nodes} >= {
        (node, signal) for node in ("lif1", "lif2") for signal in "suv"
    }
    assert all(n.different == 0 for n in row.nodes)


def test_a_fault_is_found_and_placed(program: Program, digits: Dataset) -> None:
    """The thresholds of one layer raised: the first difference lies in that layer, and the gate must fail."""
    graph = copy.deepcopy(program.graph)
    node = vars(graph.nodes["lif2"])
    node["v_threshold"] = node["v_threshold"] + 0.2
    broken = Program(graph, program.semantics, program.encoder, program.bounds, program.labels)
    models = [("reference", deploy(program, "reference")), ("torch:float64", deploy(broken, "torch:float64"))]
    (row,) = compare(program, models, x=digits.images, keys=Keys(0, digits.ids))
    nodes = {(n.node, n.signal): n for n in row.nodes}
    assert not row.exact
    assert nodes["lif1", "s"].different == 0
    assert nodes["lif2", "s"].different > 0
    assert nodes["lif2", "s"].first_difference is not None


def test_chunks_change_nothing(program: Program, digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [("reference", deploy(program, "reference")), ("loihi", deploy(program, "loihi"))]
    whole = compare(program, models, x=digits.images, keys=Keys(0, digits.ids))
    monkeypatch.setattr("rsc.parity._CHUNK_VALUES", 4000)
    assert compare(program, models, x=digits.images, keys=Keys(0, digits.ids)) == whole


def test_frames_and_images_are_the_same_to_parity(program: Program, digits: Dataset) -> None:
    models = [("reference", deploy(program, "reference")), ("torch", deploy(program, "torch"))]
    keys = Keys(0, digits.ids)
    assert program.encoder is not None
    (a,) = compare(program, models, x=digits.images, keys=keys)
    (b,) = compare(program, models, frames=encode(program.encoder, digits.images, keys))
    assert [n.different for n in a.nodes] == [n.different for n in b.nodes]
    assert (a.seed, b.seed) == (0, None)


def test_nonsense_is_refused(program: Program) -> None:
    with pytest.raises(UsageError, match="two targets"):
        compare(program, [("reference", deploy(program, "reference"))], frames=np.zeros((1, 1, 1, 8, 8)))
    with pytest.raises(UsageError, match="images with keys"):
        compare(program, [("reference", deploy(program, "reference"))] * 2)
