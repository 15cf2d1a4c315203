"""Batch norm folded into the weights before it.

W' = g W,  b' = g (b - mean) + beta,  g = gamma / sqrt(var + eps).

Computed in float64 and rounded once, to the type of the weights.
"""

from __future__ import annotations

import copy
from typing import Any

import nir
import numpy as np
import torch
from torch import nn

from rsc.errors import UnsupportedNode
from rsc.networks import StepBatchNorm2d

WEIGHTED = (nir.Conv1d, nir.Conv2d, nir.Affine)


def fold(node: Any, norm: nn.Module) -> Any:
    """A copy of a node of `WEIGHTED` that does what it and the norm behind it do in eval mode.

    Raises:
        UnsupportedNode: the norm keeps no statistics, or differs between steps.
    """
    gain, mean, shift = _constants(norm)
    folded = copy.copy(node)
    weight = np.asarray(node.weight)
    scaled = weight.astype(np.float64) * gain.reshape(-1, *[1] * (weight.ndim - 1))
    folded.weight = scaled.astype(weight.dtype)
    folded.bias = ((np.asarray(node.bias, np.float64) - mean) * gain + shift).astype(weight.dtype)
    return folded


def _constants(norm: nn.Module) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(gain, mean, shift) per channel, float64."""
    if isinstance(norm, StepBatchNorm2d):
        return _shared([_constants(part) for part in norm.at])
    assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
    if norm.running_mean is None or norm.running_var is None:
        raise UnsupportedNode(
            f"A {type(norm).__name__} keeps no running statistics.",
            "They are needed to fold it.",
            "Train with them.",
        )
    root = (norm.running_var.double() + norm.eps).sqrt()
    gain = (norm.weight.double() if norm.affine else 1.0) / root
    shift = norm.bias.double() if norm.affine else torch.zeros_like(root)
    gain, mean, shift = (x.detach().cpu().numpy() for x in (gain, norm.running_mean.double(), shift))
    return gain, mean, shift


def _shared(
    steps: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The constants of a norm per step, where all its steps do the same."""
    gain, mean, shift = steps[0]
    offset = shift - gain * mean
    differences = [
        max(float(np.abs(g - gain).max()), float(np.abs(s - g * m - offset).max())) for g, m, s in steps
    ]
    if max(differences) > 0:
        last = differences.index(max(differences))
        raise UnsupportedNode(
            "A batch norm per time step (StepBatchNorm2d) does not do the same at every step.",
            f"Step {last + 1} differs from the first by {max(differences):.3g}; NIR's weights are constant.",
            "Train with norm='batch'.",
        )
    return gain, mean, shift
