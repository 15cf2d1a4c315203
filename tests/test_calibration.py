"""Scales from frames: finer where bounds are far off, clipped where a few weights are large, reported."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest

from rsc.calibration import MARGIN, calibrate
from rsc.data import Dataset
from rsc.errors import UsageError
from rsc.export.loihi import lower
from rsc.export.reader import read_program
from rsc.export.writer import write_program
from rsc.hw_targets import deploy
from rsc.layered import STATE_MAX
from rsc.program import Program, Semantics
from rsc.quantiser import Quantiser
from rsc.results import Keys, Probe

RNG = np.random.default_rng(51)
SPIKES = (RNG.random((40, 6, 30)) < 0.1).astype(np.float32)


def net(weight: np.ndarray, **changes: Any) -> Program:
    values = {"tau": 4e-3, "r": 4.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0} | changes
    fields: Any = {k: np.full(len(weight), v) for k, v in values.items()}
    nodes: dict[str, Any] = {
        "input": nir.Input({"input": np.array([weight.shape[1]])}),
        "fc": nir.Linear(weight),
        "n": nir.LIF(**fields),
        "output": nir.Output({"output": np.array([len(weight)])}),
    }
    return Program(nir.NIRGraph(nodes, list(pairwise(nodes))), Semantics(1e-3))


def test_what_is_seen_allows_a_larger_scale_than_what_could_be() -> None:
    """Weights so large that the bound holds the scale down; no frame comes near it."""
    program = net(RNG.normal(size=(5, 600)) ** 3)
    x = (RNG.random((20, 4, 600)) < 0.02).astype(np.float32)
    found = calibrate(program, x)
    (row,) = found.rows
    assert row.scale >= row.before
    assert row.keep == 1.0
    assert row.clipped == row.saturations == 0
    (layer,) = lower(found.program).layers
    assert layer.scale == row.scale
    with deploy(found.program, "loihi") as model:
        states = model.run_frames(x, Probe(states=frozenset(["n"]))).spikes.states
    seen = max(np.abs(states["n.u"]).max(), np.abs(states["n.v"]).max())
    assert row.reach == pytest.approx(seen / STATE_MAX)
    assert seen <= STATE_MAX / MARGIN * 1.01


@pytest.mark.parametrize("bits", [2, 4, 8, 9])
def test_weights_of_few_bits_lie_on_their_grid(bits: int) -> None:
    found = calibrate(net(RNG.normal(size=(8, 30))), SPIKES, bits=bits)
    connections = lower(found.program).layers[0].connections
    weight = sum((c.weight for c in connections), np.zeros((), np.int32))
    step = 2 ** (9 - bits)
    assert not (weight % step).any()
    assert weight.min() >= (-255 if bits == 9 else -256)
    assert weight.max() <= 256 - step
    assert len(np.unique(weight)) <= 2**bits
    assert [(c.weight.min() < 0, c.weight.max() > 0) for c in connections] == (
        [(False, True), (True, False)] if bits == 9 else [(True, True)]
    )


def test_clipping_a_few_large_weights_helps_the_others() -> None:
    weight = RNG.normal(size=(64, 30)) / 4
    weight[0, 0] = 4.0
    rows = {
        mode: calibrate(net(weight), SPIKES, mode=mode, bits=4).rows[0]
        for mode in ("max", "mse", "percentile")
    }
    assert rows["max"].clipped == 0
    assert rows["mse"].clipped >= 1
    assert rows["percentile"].clipped >= 1
    assert rows["mse"].keep < 0.7
    assert rows["percentile"].keep < 0.9
    for mode in ("mse", "percentile"):
        assert rows[mode].scale > rows["max"].scale
    step = 2.0**5
    for row in rows.values():  # every weight that is not clipped is rounded by at most half a step
        quantiser = Quantiser(4, (("n", row.scale, row.keep),))
        (layer,) = lower(
            net(weight).__class__(net(weight).graph, Semantics(1e-3), quantiser=quantiser)
        ).layers
        (connection,) = layer.connections
        error = np.abs(connection.weight * 2.0**connection.weight_exp / row.scale - weight)
        error[0, 0] = 0
        assert error.max() <= step / 2 * 2.0**connection.weight_exp / row.scale + 1e-9


def test_agreement_is_never_worse_than_no_clipping() -> None:
    weight = RNG.normal(size=(8, 30)) / 3
    weight[:, 0] *= 10
    rows = {mode: calibrate(net(weight), SPIKES, mode=mode, bits=3).rows[0] for mode in ("max", "agreement")}
    assert rows["agreement"].disagreement is not None
    assert rows["agreement"].disagreement <= (rows["max"].disagreement or 0)
    with deploy(net(weight), "torch:float64") as model:
        expected = model.run_frames(SPIKES, Probe(spikes=frozenset(["n"]))).spikes.rasters["n"]
    found = calibrate(net(weight), SPIKES, mode="agreement", bits=3).program
    with deploy(found, "loihi") as model:
        got = model.run_frames(SPIKES, Probe(spikes=frozenset(["n"]))).spikes.rasters["n"]
    assert rows["agreement"].disagreement == (got != expected).mean()


def test_real_valued_frames_get_eight_bits() -> None:
    x = RNG.normal(size=(20, 3, 30)).astype(np.float32)
    program = net(RNG.normal(size=(8, 30)) / 2)
    with pytest.warns(UserWarning, match="rounded to whole multiples of 1"):
        deploy(program, "loihi").run_frames(x)
    found = calibrate(program, x)
    (source,) = lower(found.program).inputs
    assert 127 < np.abs(x).max() * source.scale <= 255
    with deploy(found.program, "loihi") as model, deploy(program, "reference") as reference:
        ours, theirs = model.run_frames(x).outputs["output"], reference.run_frames(x).outputs["output"]
    assert (ours != theirs).mean() < 0.02


def test_scales_ride_in_the_file_and_make_another_program(
    program: Program, digits: Dataset, tmp_path: Path
) -> None:
    found = calibrate(program, digits.images[:16], Keys(0, digits.ids[:16]), "mse")
    write_program(found.program, tmp_path / "a.nir")
    again = read_program(tmp_path / "a.nir")
    assert again == found.program != program
    assert lower(again).digest == lower(found.program).digest
    assert [row.layer for row in found.rows] == [layer.name for layer in lower(program).layers]
    assert all(row.disagreement is None or row.disagreement < 0.05 for row in found.rows)
    assert all(row.saturations == 0 for row in found.rows)


def test_unknown_modes_and_bits_are_refused() -> None:
    for wrong in ({"mode": "best"}, {"percentile": 0}, {"bits": 10}, {"bits": 1}):
        options: Any = wrong
        with pytest.raises(UsageError):
            calibrate(net(np.eye(30)), SPIKES, **options)
    with pytest.raises(UsageError):
        Quantiser(8, (("n", -1.0, 1.0),))
