"""The mixed integer program, branch and bound, intervals and exhaustive search agree on small networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from interval_nets import box, points, run, tiny
from lava_networks import Kit, grid, lif
from lava_networks import program as layered_of

from rsc.errors import UnsupportedNode
from rsc.hw_targets.base import readout as read
from rsc.layered import Connection
from rsc.robustness.branch_and_bound import Frames, branch_and_bound
from rsc.robustness.intervals import IntervalProgram, payload_boxes
from rsc.robustness.intervals_margin import Readout
from rsc.robustness.milp import exact_margins


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("rule", ["mean", "last"])
def test_the_solver_finds_the_exhaustive_minimum_of_every_margin(seed: int, rule: str) -> None:
    layered, (low, high) = tiny(seed), box(seed)
    z = read(run(layered, points(low, high)).outputs["output"], rule)
    y = int(z[0].argmax())
    readout, inputs = Readout(IntervalProgram(layered), rule), payload_boxes(layered, {"x": (low, high)})
    found, true = exact_margins(readout, inputs, y), (z[:, [y]] - z).min(0)
    others = [j for j in range(3) if j != y]
    np.testing.assert_allclose(found.margins[others], true[others], atol=1e-6)
    assert (found.bounds[others] <= true[others] + 1e-6).all()
    margins = readout.margins(readout.program.bounds(inputs), torch.tensor([y]))[0].numpy()
    assert (margins[others] <= true[others] + 1e-9).all()
    worst = read(run(layered, found.payloads["x"][:, None].astype(np.float32)).outputs["output"], rule)[0]
    assert min(worst[y] - worst[others]) == pytest.approx(true[others].min(), abs=1e-6)


def test_stable_neurons_need_no_binary() -> None:
    layered, (low, high) = tiny(3), box(3)
    readout = Readout(IntervalProgram(layered))
    for ends, none in (((low, high), False), ((low, low), True)):
        inputs = payload_boxes(layered, {"x": ends})
        undecided = readout.program.stability(readout.program.bounds(inputs)).unstable
        assert exact_margins(readout, inputs, 0).binaries == undecided
        assert (undecided == 0) == none


def test_latched_payloads_are_the_same_at_every_step() -> None:
    layered = tiny(6)
    low, high = np.full((2, 1, 3), -2, np.float32), np.full((2, 1, 3), 1, np.float32)
    every = points(low[:1], high[:1]).repeat(2, 0)
    z = read(run(layered, every).outputs["output"], "mean")
    readout, inputs = Readout(IntervalProgram(layered)), payload_boxes(layered, {"x": (low, high)})
    found = exact_margins(readout, inputs, 0, latched=True)
    np.testing.assert_allclose(found.margins[1:], (z[:, [0]] - z).min(0)[1:], atol=1e-6)
    free = exact_margins(readout, inputs, 0)
    assert (free.margins[1:] <= found.margins[1:] + 1e-6).all()


def test_convolution_pooling_and_delays_are_written_out() -> None:
    kit = Kit(np.random.default_rng(2))
    two = (2, 2)
    late = kit.dense("a", 2, 8, np.random.default_rng(0).integers(0, 2, (2, 8)))
    layered = layered_of(
        kit.lif("a", (2, 2, 2), Connection("x", "conv", kit.weight(2, 1, 2, 2), (1, 3, 3), graded=True)),
        kit.lif("b", (2,), late),
        kit.sum(
            "r",
            (3,),
            Connection("a", "dense", kit.weight(3, 2), (2, 2, 2), pool=(two, two)),
            kit.dense("b", 3, 2),
        ),
        shape=(1, 3, 3),
        input_max=4,
    )
    low = np.zeros((2, 1, 1, 3, 3), np.float32)
    high = low.copy()
    high[:, :, :, 1, :2] = 2
    z = read(run(layered, points(low, high)).outputs["output"], "mean")
    readout, inputs = Readout(IntervalProgram(layered)), payload_boxes(layered, {"x": (low, high)})
    np.testing.assert_allclose(
        exact_margins(readout, inputs, 1).margins[[0, 2]], (z[:, [1]] - z).min(0)[[0, 2]], atol=1e-6
    )


def test_programs_that_wrap_are_refused() -> None:
    weight = 4 * grid(np.random.default_rng(0), 3, 3) // 4
    layered = layered_of(
        lif("a", (3,), Connection("x", "dense", weight, (3,), 10, graded=True)), shape=(3,), input_max=200
    )
    ends = np.zeros((2, 1, 3), np.float32), np.full((2, 1, 3), 200, np.float32)
    with pytest.raises(UnsupportedNode, match="wrap"):
        exact_margins(Readout(IntervalProgram(layered)), payload_boxes(layered, {"x": ends}), 0)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("split", ["auto", "neuron", "input"])
def test_branch_and_bound_decides_what_exhaustive_search_finds(seed: int, split: str) -> None:
    layered, (low, high) = tiny(seed), box(seed)
    z = read(run(layered, points(low, high)).outputs["output"], "mean")
    y = int(z[0].argmax())
    true = float((z[:, [y]] - np.delete(z, y, 1)).min())
    readout = Readout(IntervalProgram(layered))
    found = branch_and_bound(readout, Frames(layered), low[:, 0], high[:, 0], y, seconds=60, split=split)  # type: ignore[arg-type]
    assert found.status == ("proved" if true > 0 else "refuted" if true < 0 else "unknown")
    assert found.best >= true - 1e-9
    if found.status == "refuted":
        assert found.image is not None
        assert (low[:, 0] <= found.image).all()
        assert (found.image <= high[:, 0]).all()
        again = read(run(layered, np.rint(found.image)[:, None]).outputs["output"], "mean")[0]
        assert again.argmax() != y


def test_a_search_without_budget_returns_the_bound_of_the_intervals() -> None:
    """The bound rises from there and never passes the true minimum."""
    for seed in range(40):
        layered, (low, high) = tiny(seed), box(seed)
        z = read(run(layered, points(low, high)).outputs["output"], "mean")
        y = int(z[0].argmax())
        true = float((z[:, [y]] - np.delete(z, y, 1)).min())
        readout = Readout(IntervalProgram(layered))
        inputs = payload_boxes(layered, {"x": (low, high)})
        start = float(readout.margins(readout.program.bounds(inputs), torch.tensor([y])).min())
        if start <= 0 < true:
            break
    else:
        raise AssertionError("no network whose intervals are loose")
    seen: list[float] = []
    coding, ends = Frames(layered), (low[:, 0], high[:, 0])
    first = branch_and_bound(readout, coding, *ends, y, seconds=0)
    assert (first.status, first.bound, first.nodes) == ("unknown", pytest.approx(start), 1)
    last = branch_and_bound(
        readout, coding, *ends, y, seconds=60, width=1, on_bound=lambda b, n: seen.append(b)
    )
    assert last.status == "proved"
    assert max(seen) <= true + 1e-9
    assert seen[0] == pytest.approx(start)
