"""Fan-out maps against tap-by-tap enumeration, the Bernoulli closed form, and the differentiable loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from energy_vectors import W1, W2, XD, XE, T, program, simulate, taps

from rsc.energy import (
    bernoulli_encoder,
    emitter_fan_outs,
    encoder_counts,
    expected_sop,
    fan_outs,
    synops_loss,
)
from rsc.errors import UsageError
from rsc.program import EncoderSpec


def enumerated(shape: tuple[int, ...], w: np.ndarray, s: int, p: int) -> tuple[np.ndarray, np.ndarray]:
    structural, nonzero = np.zeros((2, *shape), dtype=np.int64)
    for o, _, _, c, a, b, channel, i, j in taps((1, *shape), w.shape, s, p):
        structural[channel, i, j] += 1
        nonzero[channel, i, j] += w[o, c, a, b] != 0
    return structural, nonzero


@pytest.mark.parametrize(
    ("node", "w", "shape", "s", "p"), [("conv1", W1, (2, 8, 8), 1, 1), ("conv2", W2, (4, 8, 8), 2, 0)]
)
def test_maps_equal_the_enumeration_of_taps(node: str, w, shape, s: int, p: int) -> None:
    (found,) = fan_outs(program())[node]
    structural, nonzero = enumerated(shape, w, s, p)
    assert np.array_equal(found.structural, structural)
    assert np.array_equal(found.nonzero, nonzero)


def test_unreached_sites_have_no_fan_out() -> None:
    (found,) = fan_outs(program())["conv2"]
    assert not found.structural[:, 7].any()
    assert not found.structural[:, :, 7].any()


def test_map_of_a_flattened_edge_has_the_shape_of_its_source() -> None:
    (found,) = fan_outs(program())["fc"]
    assert found.structural.shape == (6, 3, 3)
    assert (found.structural == 10).all()


def test_bernoulli_expectation_is_the_published_closed_form() -> None:
    (found,) = fan_outs(program())["conv1"]
    p = XD[0, 0]
    mean, variance = expected_sop(p, found.structural, T)
    assert mean == 9883.5
    assert variance == pytest.approx(109454.4, abs=0.05)
    assert expected_sop(p, found.nonzero, T)[0] == 9314.875


def test_bernoulli_runs_lie_within_four_standard_errors() -> None:
    (found,) = fan_outs(program())["conv1"]
    p, runs = XD[0, 0], 400
    draws = np.random.default_rng(11).random((runs, T, *p.shape)) < p
    mean, variance = expected_sop(p, found.structural, T)
    measured = (draws.sum(1) * found.structural).sum((1, 2, 3))
    assert abs(measured.mean() - mean) < 4 * np.sqrt(variance / runs)


def test_bernoulli_inputs_are_checked() -> None:
    with pytest.raises(UsageError, match="outside"):
        expected_sop(np.array([1.5]), np.array([1]), T)
    with pytest.raises(UsageError, match="one probability per site"):
        expected_sop(np.array([0.5, 0.5]), np.array([1]), T)


def test_encoder_operations() -> None:
    p = XD[0, 0]
    assert bernoulli_encoder(p, T).draws == 1024
    assert bernoulli_encoder(p, T, skip_certain=True).draws == 664
    assert encoder_counts(EncoderSpec("direct", T), (2, 8, 8)).draws == 0
    assert encoder_counts(EncoderSpec("rsc1", T, sigma=0.1), (2, 8, 8)).draws == 128
    noisy = EncoderSpec("rsc2", T, sigma=0.1, clip=(0, 1), mean=(0.5,), std=(0.2,))
    found = encoder_counts(noisy, (2, 8, 8))
    assert (found.draws, found.comparisons, found.multiplies, found.adds, found.pixel_reads) == (
        1024,
        2048,
        2048,
        2048,
        1024,
    )


def test_loss_is_the_number_of_operations_per_sample() -> None:
    run = simulate(XE)
    spikes = {"input": run.x, "lif1": run.s1, "lif2": run.s2}
    twice = {k: torch.from_numpy(np.repeat(v, 2, axis=1)) for k, v in spikes.items()}
    assert float(synops_loss(twice, emitter_fan_outs(program()))) == 9140 + 534 + 170


def test_gradient_of_the_loss_is_the_fan_out() -> None:
    spikes = torch.zeros((T, 3, 4, 8, 8), dtype=torch.float64, requires_grad=True)
    maps = emitter_fan_outs(program())
    synops_loss({"lif1": spikes}, maps).backward()
    assert spikes.grad is not None
    expected, _ = enumerated((4, 8, 8), W2, 2, 0)
    assert np.allclose(spikes.grad.numpy(), expected / 3)


def test_loss_refuses_what_it_has_no_map_for() -> None:
    maps = emitter_fan_outs(program())
    with pytest.raises(UsageError, match="no fan-out map"):
        synops_loss({"conv1": torch.zeros(T, 1, 4, 8, 8)}, maps)
    with pytest.raises(UsageError, match="shape"):
        synops_loss({"lif1": torch.zeros(T, 1, 256)}, maps)
    with pytest.raises(UsageError, match="no spikes"):
        synops_loss({}, maps)
