"""The program that a trained network becomes."""

from __future__ import annotations

from torch import nn

from rsc.data import Dataset
from rsc.encoder_spec import EncoderSpec
from rsc.export.to_nir import to_program
from rsc.program import Program


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
