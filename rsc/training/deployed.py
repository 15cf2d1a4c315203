"""The program that a trained network becomes, and whether it will become one."""

from __future__ import annotations

import torch
from torch import nn

from rsc.data import Dataset
from rsc.encoder_spec import EncoderSpec
from rsc.errors import UnsupportedNode
from rsc.export.to_nir import to_program
from rsc.networks import build
from rsc.program import Program
from rsc.training.config import TrainConfig
from rsc.training.deployed_chain import no_chain, problems
from rsc.training.memory import told_when_full


def program_of(network: nn.Module, encoder: EncoderSpec | None, data: Dataset, dt: float) -> Program:
    """Lower a network that was trained on `data`.

    Without an encoder the program is fed frames, and has no bounds, which are those of images.

    Args:
        dt: time step in seconds.

    Raises:
        UnsupportedNode: see `to_program`.
    """
    if encoder is None:
        steps = data.images.shape[1]
        return to_program(network, data.frame_shape, None, steps=steps, dt=dt, labels=data.labels)
    return to_program(network, data.frame_shape, encoder, dt=dt, bounds=data.bounds, labels=data.labels)


def require_deployable(config: TrainConfig, data: Dataset) -> None:
    """Refuse a network that could be trained on `data` and not be deployed, before it is trained.

    Raises:
        UnsupportedNode: it has no program, or cannot be fine-tuned where that is asked for.
        RscError: there is not enough memory for it.
    """
    if config.network.neuron == "relu":
        raise UnsupportedNode(
            "An ANN has no deployable program.", "ReLU is no NIR neuron.", "Use neuron = 'lif'."
        )
    if config.network.norm == "step":
        raise UnsupportedNode(
            "Batch norms per time step have no deployable program.",
            "Training makes them differ from step to step, and NIR's weights are constant.",
            "Use norm = 'batch'; rsc.training.fit trains it without a program.",
        )
    with torch.random.fork_rng(devices=[]), told_when_full():
        network = build(config.network, data.frame_shape, len(data.labels)).eval()
    encoder = None if config.encoder.frames else config.encoder.spec()
    program_of(network, encoder, data, config.dt)
    for problem in problems(network) if config.qat.target else ():
        raise no_chain(problem)
