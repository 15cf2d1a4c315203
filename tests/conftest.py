"""Shared fixtures: one small trained network and its program, made once per worker process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from rsc import data, pipeline
from rsc.networks import NetworkSpec
from rsc.program import Program
from rsc.training import EncoderConfig, TrainConfig


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """The command line sets handlers; the next test has those of before."""
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture(scope="session")
def small_config() -> TrainConfig:
    """A network that trains in seconds."""
    return TrainConfig(
        network=NetworkSpec(channels=(4, 8)), encoder=EncoderConfig("rsc2", 4, 0.2), epochs=3, batch_size=128
    )


@pytest.fixture(scope="session")
def packed(small_config: TrainConfig) -> pipeline.Packed:
    """The trained network."""
    return pipeline.train(small_config, "small")


@pytest.fixture(scope="session")
def program(packed: pipeline.Packed) -> Program:
    """Its program."""
    assert packed.program is not None
    return packed.program


@pytest.fixture(scope="session")
def digits() -> data.Dataset:
    """The first held-out digits."""
    return data.load("digits", "test").head(16)
