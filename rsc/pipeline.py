"""From a training configuration to a bundle with its first measured figures."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from rsc import __version__
from rsc.bundle import Bundle
from rsc.data import Dataset, load
from rsc.export.to_nir import to_program
from rsc.program import Program
from rsc.robustness.evaluate import score
from rsc.robustness.model import ModuleModel, from_module
from rsc.robustness.results import Scores
from rsc.training import EpochStats, TrainConfig, Trained, fit

CARD_DRAWS = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Packed:
    """A trained model on its way to a bundle.

    Fields:
        trained: network, encoder and log.
        program: what is deployed; None for an ANN, which NIR targets here do not run.
        clean: accuracies on the held-out split.
        test: that split.
    """

    trained: Trained
    program: Program | None
    clean: Scores
    test: Dataset
    model: ModuleModel


def train(
    config: TrainConfig,
    name: str,
    *,
    steps: int | None = None,
    on_epoch: Callable[[EpochStats], None] = lambda stats: None,
) -> Packed:
    """Train, lower to a program and measure clean accuracy on the held-out split.

    Args:
        steps: time steps at evaluation, if other than in training (an ANN averaged over T noisy passes
            is trained on single passes).

    Raises:
        RscError: bad configuration, missing data, diverging training.
    """
    root = Path(config.data_root) if config.data_root else None
    data, test = load(config.dataset, "train", root), load(config.dataset, "test", root)
    trained = fit(config, data, on_epoch)
    encoder = msgspec.structs.replace(trained.encoder, steps=steps or trained.encoder.steps)
    trained = dataclasses.replace(trained, encoder=encoder)
    program = None
    if config.network.neuron != "relu":
        program = to_program(
            trained.network,
            data.images.shape[1:],
            encoder,
            dt=config.dt,
            bounds=data.bounds,
            labels=data.labels,
        )
    model = from_module(trained.network, encoder, data.bounds, name=name)
    draws = CARD_DRAWS if encoder.stochastic else 1
    clean = score(model, test.images, test.targets, draws, samples=test.ids)
    return Packed(trained, program, clean, test, model)


def plain(value: Any) -> Any:
    """A value as JSON gives it back: mappings, lists, text and numbers."""
    return msgspec.json.decode(msgspec.json.encode(value))


def to_bundle(packed: Packed, config: TrainConfig, name: str) -> Bundle:
    """The bundle of a spiking model.

    Raises:
        UnsupportedNode: the model has no program (an ANN).
    """
    from rsc.errors import UnsupportedNode

    if packed.program is None:
        raise UnsupportedNode(
            "An ANN has no deployable program.", "ReLU is no NIR neuron.", "Use neuron='lif'."
        )
    state = {key: value.detach().cpu().numpy() for key, value in packed.trained.network.state_dict().items()}
    accuracy = {"per_run": packed.clean.per_run, "vote": packed.clean.vote}
    return Bundle(
        name=name,
        program=packed.program,
        state={key: np.ascontiguousarray(value) for key, value in state.items()},
        config=plain(config),
        metrics={f"clean_accuracy_{key}": plain(value) for key, value in accuracy.items()}
        | {"test_images": len(packed.test), "training_wall_s": round(packed.trained.wall_s, 2)},
        made_with={
            "rsc-snn": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    )
