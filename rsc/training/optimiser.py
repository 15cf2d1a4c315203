"""Optimisers by name, and which parameters decay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

if TYPE_CHECKING:
    from rsc.training.config import TrainConfig
    from rsc.training.config_tables import OptimiserConfig

WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding, nn.Bilinear)
Groups = list[dict[str, Any]]


def make_optimiser(config: TrainConfig, network: nn.Module) -> Optimizer:
    """The optimiser of a run, over the parameters that want gradients."""
    groups = parameter_groups(network, config.weight_decay, config.optimiser.decay)
    return OPTIMISERS[config.optimiser.kind](groups, config.lr, config.optimiser)


def _adamw(groups: Groups, lr: float, config: OptimiserConfig) -> Optimizer:
    return torch.optim.AdamW(groups, lr=lr, betas=config.betas)


def _sgd(groups: Groups, lr: float, config: OptimiserConfig) -> Optimizer:
    return torch.optim.SGD(groups, lr=lr, momentum=config.momentum, nesterov=config.nesterov)


OPTIMISERS: dict[str, Callable[[Groups, float, OptimiserConfig], Optimizer]] = {"adamw": _adamw, "sgd": _sgd}


def parameter_groups(network: nn.Module, weight_decay: float, decay: str) -> Groups:
    """Parameters with the decay they get: one group for "all", else decaying weights and the rest.

    Weights are the matrices and kernels of linear and convolutional layers. Norms, biases and what neurons
    learn (decays, thresholds) do not decay.
    """
    trained = [p for p in network.parameters() if p.requires_grad]
    if decay == "all":
        return [{"params": trained, "weight_decay": weight_decay}]
    decaying = {id(p) for p in _weights(network)}
    return [
        {"params": [p for p in trained if id(p) in decaying], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) not in decaying], "weight_decay": 0.0},
    ]


def _weights(network: nn.Module) -> Iterator[Tensor]:
    for module in network.modules():
        if isinstance(module, WEIGHTED):
            yield from (p for name, p in module.named_parameters(recurse=False) if name != "bias")


def set_learning_rate(optimiser: Optimizer, lr: float) -> None:
    """Use `lr` from now on."""
    for group in optimiser.param_groups:
        group["lr"] = lr


def parameters_of(optimiser: Optimizer) -> list[Tensor]:
    """All parameters, in the optimiser's order."""
    return [p for group in optimiser.param_groups for p in group["params"]]


def moments(optimiser: Optimizer) -> dict[str, dict[str, Any]]:
    """The state of each parameter: number of the parameter -> name -> tensor, number or None."""
    return {str(i): dict(entry) for i, entry in optimiser.state_dict()["state"].items()}


def set_moments(optimiser: Optimizer, state: dict[str, dict[str, Any]]) -> None:
    """Put back what `moments` gave, each tensor in the memory layout of its parameter."""
    whole = optimiser.state_dict()
    whole["state"] = {int(i): entry for i, entry in state.items()}
    optimiser.load_state_dict(whole)
    for parameter, entry in optimiser.state.items():
        for name, value in entry.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.ndim:
                entry[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
