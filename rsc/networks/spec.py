"""What a network is built from: one frozen value that configurations, bundles and reports carry."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from rsc.errors import UsageError

NEURON_NAMES = ("lif", "if", "relu")


class NetworkSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which network, and the constants of its neurons.

    Fields:
        name: one of `rsc.networks.NETWORKS`.
        channels: of mlp and convnet, the hidden widths; the other networks have theirs by name.
        neuron: "lif", "if" (no leak), or "relu" for the ANN of the same shape.
        decay: share of the membrane kept per step, where it is learned the start value ("lif").
        surrogate: one of `rsc.neurons.SURROGATES`.
        width: factor on the widths that a name stands for; the widen factor of a WideResNet. The results are
            rounded, at least 1.
        hidden: widths of the fully connected layers before the classifier (vgg), None for those of the name.
        form: residual networks: "sew", spike + identity (Fang et al., arXiv 2102.04159), or "ms", a shortcut
            from membrane to membrane with the neurons before the weights (Hu et al., arXiv 2112.08954).
        norm: "batch", statistics over T and B together; "step", one normalisation per time step (Kim and
            Panda, arXiv 2010.01729), which NIR cannot carry unless all are equal; or "none".
        steps: T, needed by norm "step" only.
        readout: what makes the outputs [T, B, K] of the last weights: nothing ("linear"), the membrane of a
            leaky integrator ("membrane") or a spiking neuron ("spikes").
        v_threshold, reset, detach_reset, learn_decay: see `rsc.neurons.LIF`.
    """

    name: str = "convnet"
    channels: tuple[int, ...] = (16, 32)
    neuron: str = "lif"
    decay: float = 0.5
    surrogate: str = "atan"
    width: float = 1.0
    hidden: tuple[int, ...] | None = None
    form: Literal["sew", "ms"] = "sew"
    norm: Literal["batch", "step", "none"] = "batch"
    steps: int = 0
    readout: Literal["linear", "membrane", "spikes"] = "linear"
    v_threshold: float = 1.0
    reset: Literal["value", "subtract"] = "value"
    detach_reset: bool = True
    learn_decay: bool = False

    def __post_init__(self) -> None:
        if self.neuron not in NEURON_NAMES:
            raise UsageError(
                f"A network has neurons '{self.neuron}'.",
                f"Known: {', '.join(NEURON_NAMES)}.",
                "Choose among them.",
            )
        if not 0 < self.width < math.inf or min(*self.channels, *(self.hidden or ()), 1, 1) < 1:
            raise UsageError(
                f"A network has width {self.width}, channels {self.channels}, hidden layers {self.hidden}.",
                "All of them are positive and finite.",
                "Correct them.",
            )
        if self.norm == "step" and self.steps < 1:
            raise UsageError(
                "A network normalises per time step, for no number of steps.",
                "It has one normalisation for each of them.",
                "Set `steps` to the number of time steps of the encoder.",
            )
        if self.neuron == "relu" and self.readout != "linear":
            raise UsageError(
                f"A network without spiking neurons has readout '{self.readout}'.",
                "It has neither membranes nor spikes.",
                "Use readout 'linear'.",
            )
        if self.learn_decay and self.neuron != "lif" and self.readout != "membrane":
            raise UsageError(
                f"A network of '{self.neuron}' learns its decay.",
                "It has none.",
                "Use neuron 'lif', or drop learn_decay.",
            )
