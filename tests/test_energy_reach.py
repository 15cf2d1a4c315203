"""Neurons with synaptic input, found by sets of bits, against the masked operator and a loop."""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
import pytest
import torch
from energy_vectors import wrap
from torch.nn import functional as F

from rsc.energy import reach
from rsc.energy.edges import Net, open_net
from rsc.energy.reach import reached, reached_counts

RNG = np.random.default_rng(5)
SHARES = (0.0, 0.1, 0.6, 0.95, 1.0)


def net_of(node: Any, shape: tuple[int, ...]) -> Net:
    ends = {"input": nir.Input({"input": np.array(shape)}), "output": nir.Output({"output": None})}  # type: ignore[dict-item]
    return open_net(wrap(ends | {"n": node}, [("input", "n"), ("n", "output")]))


def weight(*shape: int) -> np.ndarray:
    """Signed weights, a random share of them zero; now and then a whole output, too."""
    w = RNG.normal(size=shape)
    w[RNG.random(shape) < RNG.choice(SHARES)] = 0
    if RNG.random() < 0.3:
        w[RNG.integers(len(w))] = 0
    return w


def agrees(net: Net, mask: np.ndarray, expected: torch.Tensor) -> None:
    wanted = expected.numpy() > 0
    assert np.array_equal(reached(net, "n", mask), wanted)
    assert reached_counts(net, "n", mask).tolist() == wanted.reshape(len(mask), -1).sum(1).tolist()


def active(*shape: int) -> tuple[np.ndarray, torch.Tensor]:
    mask = RNG.random(shape) < RNG.choice([0, 0.01, 0.1, 0.5, 1])
    return mask, torch.from_numpy(mask.astype(np.float64))


@pytest.mark.parametrize("seed", range(40))
def test_convolutions_reach_what_the_masked_operator_reaches(seed: int) -> None:
    c_out, c_in = (int(RNG.choice(c)) for c in ([1, 3, 8, 65, 130], [1, 2, 7, 8, 17]))
    (k, s, d), p = (tuple(map(int, RNG.integers(1, hi, 2))) for hi in (4, 3, 3)), int(RNG.integers(0, 3))
    w = weight(c_out, c_in, *k)
    mask, x = active(5, c_in, 9, 10)
    net = net_of(nir.Conv2d((9, 10), w, s, p, d, 1, np.zeros(c_out)), (c_in, 9, 10))  # type: ignore[arg-type]
    agrees(net, mask, F.conv2d(x, torch.from_numpy((w != 0) * 1.0), None, s, p, d))


@pytest.mark.parametrize("seed", range(10))
def test_matrices_and_one_dimension_do_so_too(seed: int) -> None:
    w = weight(65, 17)
    for lead in ((), (3,)):
        mask, x = active(6, *lead, 17)
        agrees(net_of(nir.Linear(w), (*lead, 17)), mask, x @ torch.from_numpy((w != 0) * 1.0).T)
    w = weight(9, 7, 3)
    mask, x = active(6, 7, 12)
    net = net_of(nir.Conv1d(12, w, 2, 1, 1, 1, np.zeros(9)), (7, 12))
    agrees(net, mask, F.conv1d(x, torch.from_numpy((w != 0) * 1.0), None, 2, 1))


def test_groups_and_same_padding() -> None:
    w = weight(4, 1, 3, 3)
    mask, x = active(5, 2, 9, 10)
    net = net_of(nir.Conv2d((9, 10), w, 1, 1, 1, 2, np.zeros(4)), (2, 9, 10))
    agrees(net, mask, F.conv2d(x, torch.from_numpy((w != 0) * 1.0), None, 1, 1, 1, 2))
    w = weight(4, 2, 2, 2)
    net = net_of(nir.Conv2d((9, 10), w, 1, "same", 1, 1, np.zeros(4)), (2, 9, 10))
    agrees(net, mask, F.conv2d(F.pad(x, (0, 1, 0, 1)), torch.from_numpy((w != 0) * 1.0)))


@pytest.mark.parametrize("seed", range(12))
def test_groups_of_any_width_and_multiplier(seed: int) -> None:
    groups, width, times = (int(RNG.choice(c)) for c in ([2, 3, 70], [1, 2, 8, 11], [1, 2, 3]))
    w = weight(groups * times, width, 3, 2)
    mask, x = active(3, groups * width, 6, 5)
    net = net_of(nir.Conv2d((6, 5), w, (2, 1), 1, 1, groups, np.zeros(len(w))), (groups * width, 6, 5))
    agrees(net, mask, F.conv2d(x, torch.from_numpy((w != 0) * 1.0), None, (2, 1), 1, 1, groups))


@pytest.mark.parametrize("events", range(5))
def test_as_many_events_as_an_output_has_zero_weights_may_all_miss_it(events: int) -> None:
    """Three of eight weights are zero: up to three events can miss, the fourth cannot."""
    w = np.ones((2, 8))
    w[0, :3] = 0
    mask = np.arange(8)[None] < events
    net = net_of(nir.Linear(w), (8,))
    assert reached(net, "n", mask).tolist() == [[events > 3, events > 0]]
    assert reached_counts(net, "n", mask).tolist() == [(events > 3) + (events > 0)]


def test_the_layout_of_a_raster_does_not_matter() -> None:
    w = weight(9, 16, 3, 3)
    mask, x = active(4, 16, 6, 5)
    net = net_of(nir.Conv2d((6, 5), w, 1, 1, 1, 1, np.zeros(9)), (16, 6, 5))
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(mask, 1, -1)), -1, 1)
    agrees(net, last, F.conv2d(x, torch.from_numpy((w != 0) * 1.0), None, 1, 1))


def test_a_loop_over_synapses_finds_the_same() -> None:
    w, mask = weight(3, 2, 3, 3), RNG.random((2, 2, 5, 5)) < 0.2
    w[0, 0] = 0
    found = np.zeros((2, 3, 5, 5), dtype=bool)
    for n, c, i, j in zip(*np.nonzero(mask), strict=True):
        for o, a, b in np.ndindex(3, 3, 3):
            y, z = i + 1 - a, j + 1 - b
            if 0 <= y < 5 and 0 <= z < 5 and w[o, c, a, b] != 0:
                found[n, o, y, z] = True
    net = net_of(nir.Conv2d((5, 5), w, 1, 1, 1, 1, np.zeros(3)), (2, 5, 5))
    assert np.array_equal(reached(net, "n", mask), found)


def test_parts_and_an_empty_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    w, (mask, x) = weight(8, 4, 3, 3), active(7, 4, 6, 6)
    net = net_of(nir.Conv2d((6, 6), w, 1, 1, 1, 1, np.zeros(8)), (4, 6, 6))
    monkeypatch.setattr(reach, "CHUNK", 1000)
    agrees(net, mask, F.conv2d(x, torch.from_numpy((w != 0) * 1.0), None, 1, 1))
    assert reached(net, "n", mask[:0]).shape == (0, 8, 6, 6)
    assert reached_counts(net, "n", mask[:0]).shape == (0,)
