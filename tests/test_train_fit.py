"""`fit` from Python: networks of one's own, what is told on the way, and faults that are told in words."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from train_tiny import CONFIG, changed, images

from rsc.coding import encode
from rsc.data import LazyImages
from rsc.errors import RscError, UsageError
from rsc.export.to_nir import to_program
from rsc.hw_targets.reference import ReferenceTarget
from rsc.networks import SpikingSequential
from rsc.neurons import IF, LIF
from rsc.results import Keys
from rsc.training import EncoderConfig, fit, job
from rsc.training.config import AugmentConfig, ValidationConfig
from rsc.training.losses import CrossEntropy, SpikeRate, Tet
from rsc.training.metrics import scalars
from rsc.training.objective import ObjectiveConfig
from rsc.training.progress import Progress


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"augment": AugmentConfig(cutout=5)}, "cutout"),
        ({"augment": AugmentConfig(crop=5)}, "crop"),
        ({"encoder": EncoderConfig("rsc2", 2, 0.2, grid=10**8)}, "levels"),
    ],
)
def test_what_only_the_data_can_tell_is_told_before_the_first_step(
    changes: dict[str, Any], word: str
) -> None:
    with pytest.raises(UsageError, match=word):
        fit(changed(**changes), images(), watcher=lambda progress: pytest.fail("it trained"))


def test_constants_of_many_images_on_demand_are_those_of_an_even_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job, "CONSTANTS_FROM", 64)
    values = np.random.default_rng(0).random((1000, 3, 2, 2)).astype(np.float32)
    read: list[int] = []

    def decode(k: int) -> np.ndarray:
        read.append(k)
        return values[k]

    lazy = dataclasses.replace(images(1000), images=LazyImages(decode, (3, 2, 2), np.arange(1000)))
    mean, std = job.constants(lazy)
    assert sorted(read) == [*np.linspace(0, 999, 64).astype(int)]
    np.testing.assert_allclose(mean, values[read].mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(std, values[read].std((0, 2, 3)), rtol=1e-5)


def test_a_network_of_ones_own_is_trained_watched_and_exported() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.neurons = nn.Linear(16, 8), LIF(learn_decay=True)
            self.second, self.more = nn.Linear(8, 8), IF()
            self.out = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            a = self.neurons(self.first(x.flatten(2)))
            return self.out(self.more(self.second(a)) + a)

    seen: list[Progress] = []
    torch.manual_seed(0)
    own = Own()
    before = own.first.weight.detach().clone()
    trained = fit(changed(epochs=2), images(), start=own, watcher=seen.append)
    assert trained.network is own
    assert not torch.equal(own.first.weight, before)
    assert [(p.what, p.epoch, p.step, p.steps) for p in seen] == [
        ("training", epoch, step, 3) for epoch in (1, 2) for step in (1, 2, 3)
    ]
    assert seen[-1].remaining_s == 0 < seen[0].remaining_s
    assert seen[2].loss == pytest.approx(trained.history[0].loss)
    program = to_program(own, (1, 4, 4), trained.encoder)
    x = images()
    keys = Keys(0, x.ids)
    frames = torch.from_numpy(encode(trained.encoder, x.images, keys)).double()
    with torch.no_grad():
        expected = own.double()(frames).mean(0).numpy()
    with ReferenceTarget().compile(program) as model:
        np.testing.assert_allclose(model.run(x.images, keys).logits, expected, rtol=1e-6, atol=1e-9)


def test_every_term_of_several_is_logged_by_itself() -> None:
    terms = (CrossEntropy(weight=0.5), Tet(weight=0.25, lamb=0.0), SpikeRate(weight=0.0))
    trained = fit(changed(objective=ObjectiveConfig(terms=terms)), images())
    for stats in trained.history:
        assert list(stats.terms) == ["cross_entropy/clean", "tet/clean", "spike_rate/clean"]
        ce, tet, rate = stats.terms.values()
        assert stats.loss == pytest.approx(0.5 * ce + 0.25 * tet)
        assert 0 < rate < 1
        assert scalars(stats)["terms/tet/clean"] == tet
    assert not fit(changed(epochs=1), images()).history[0].terms


def test_weights_that_are_not_finite_are_never_returned() -> None:
    def spoil(progress: Progress) -> None:
        if (progress.epoch, progress.step) == (4, 3):
            own.weight.data[0] = float("nan")

    own = nn.Linear(16, 3)
    network = SpikingSequential(nn.Flatten(), own)
    with pytest.raises(RscError, match="after epoch 4"):
        fit(changed(validation=ValidationConfig()), images(24), start=network, watcher=spoil)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("931 TiB"),
        torch.cuda.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_too_little_memory_is_told_with_what_asks_for_less(error: Exception) -> None:
    def full(progress: Progress) -> None:
        raise error

    with pytest.raises(RscError, match="accumulate"):
        fit(CONFIG, images(), watcher=full)


def test_an_environment_of_no_launcher_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(UsageError, match="WORLD_SIZE is 'two'"):
        fit(CONFIG, images())
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UsageError, match="torchrun"):
        fit(CONFIG, images())
    assert len(fit(changed(epochs=1), images(), alone=True).history) == 1
