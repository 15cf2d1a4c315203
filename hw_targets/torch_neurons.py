"""NIR nodes with state, or with a threshold, in PyTorch over [T, B, ...]; state in, state out."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

import nir
import numpy as np
import torch
from torch import Tensor, nn

from rsc.discretise import coefficients, delay_steps
from rsc.hw_targets.torch_fire import rule_scan
from rsc.neurons.scan import (
    Coefficient,
    Fire,
    Leak,
    leak_scan,
    leak_stepper,
    spike_scan,
    spike_stepper,
    threshold,
)
from rsc.neurons.surrogates import SURROGATES, Surrogate
from rsc.program import Semantics


class Coefficients(nn.Module):
    """Named coefficients: plain numbers where all neurons share one, frozen parameters elsewhere."""

    def __init__(self, values: dict[str, np.ndarray | None], dtype: torch.dtype) -> None:
        super().__init__()
        self.numbers: dict[str, float] = {}
        self.tensors = nn.ParameterDict()
        for name, value in values.items():
            if value is not None and (value == value.flat[0]).all():
                self.numbers[name] = float(value.flat[0])
            elif value is not None:
                tensor = torch.tensor(np.array(value), dtype=dtype)
                self.tensors[name] = nn.Parameter(tensor, requires_grad=False)

    def __getitem__(self, name: str) -> Coefficient:
        return self.numbers[name] if name in self.numbers else self.tensors[name]

    def get(self, name: str) -> Coefficient | None:
        """A coefficient, or None where the neurons have none of that name."""
        return self.numbers[name] if name in self.numbers else dict(self.tensors).get(name)

    def __contains__(self, name: str) -> bool:
        return name in self.numbers or name in self.tensors


class Population(nn.Module):
    """One NIR neuron node of `rsc.discretise.NEURONS`."""

    def __init__(self, node: Any, semantics: Semantics, dtype: torch.dtype) -> None:
        super().__init__()
        self.semantics = semantics
        self.k = Coefficients(vars(coefficients(node, semantics)), dtype)
        self.fires = "v_threshold" in self.k
        self.synaptic = "alpha_syn" in self.k
        plain = semantics.reset_step == "same" and semantics.spikes_per_step == "one"
        self.fused = plain and "v_min" not in self.k
        self._fire: Fire | None = None

    @cached_property
    def leak(self) -> Leak:
        """Of the membrane."""
        return Leak(self.k["alpha"], self.k["beta"], self.k["c"])

    @cached_property
    def synapse(self) -> Leak:
        """Of the synaptic current."""
        return Leak(self.k["alpha_syn"], self.k["beta_syn"], 0.0)

    def fire(self, surrogate: Surrogate, detach_reset: bool) -> Fire:
        """Threshold and reset; the last one made is kept."""
        if self._fire is None or (self._fire.surrogate, self._fire.detach_reset) != (surrogate, detach_reset):
            how: Literal["value", "subtract"] = "subtract" if self.semantics.reset == "subtract" else "value"
            rule = (self.k["v_threshold"], self.k["v_reset"], how, self.semantics.comparison)
            self._fire = Fire(*rule, surrogate, detach_reset)
        return self._fire

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        for cached in ("leak", "synapse"):  # they hold tensors of the device and type before
            self.__dict__.pop(cached, None)
        self._fire = None
        return super()._apply(fn, recurse)

    def forward(
        self, x: Tensor, v: Tensor, i: Tensor | None, surrogate: Surrogate, detach_reset: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Input [T, B, ...] and state [B, ...] -> output [T, B, ...] and the state after the last step."""
        if self.synaptic and i is not None:
            before = i
            x, i = leak_scan(x, i, self.synapse)
            if self.semantics.current == "old":
                x = torch.cat([before[None], x[:-1]])
        if not self.fires:
            out, v = leak_scan(x, v, self.leak)
            return out, v, i
        fire = self.fire(surrogate, detach_reset)
        if self.fused:
            spikes, v = spike_scan(x, v, self.leak, fire)
        else:
            limits = self.k.get("v_min"), self.k.get("rate")
            spikes, v = rule_scan(x, v, self.leak, fire, self.semantics, *limits)
        return spikes, v, i

    @property
    def entry(self) -> Leak:
        """What the input meets first: the synapse, or the membrane of a neuron without one."""
        return self.synapse if self.synaptic else self.leak

    def stepper(
        self, v: Tensor, i: Tensor | None, driven: bool = False
    ) -> tuple[Callable[[Tensor], Tensor], Callable[[], tuple[Tensor, Tensor | None]]]:
        """`forward` one step at a time, without gradient, from the state [B, ...].

        Args:
            driven: what arrives is `driver(x, self.entry)` already; for `fused` neurons and integrators.

        Returns:
            the step, input -> output, a new tensor [B, ...]; and how to get the last state.
        """
        step, membrane = self._membrane_stepper(v, driven and not self.synaptic)
        if not self.synaptic or i is None:
            return step, lambda: (membrane(), None)
        charge, current = leak_stepper(i, self.synapse, driven)

        def old(x: Tensor) -> Tensor:
            before = current()
            charge(x)
            return step(before)

        def new(x: Tensor) -> Tensor:
            return step(charge(x))

        return old if self.semantics.current == "old" else new, lambda: (membrane(), current())

    def _membrane_stepper(
        self, v: Tensor, driven: bool
    ) -> tuple[Callable[[Tensor], Tensor], Callable[[], Tensor]]:
        if not self.fires:
            return leak_stepper(v, self.leak, driven)
        fire = self._fire or self.fire(SURROGATES["atan"], True)
        if self.fused:
            return spike_stepper(v, self.leak, fire, driven)
        limits = self.k.get("v_min"), self.k.get("rate")

        def step(x: Tensor) -> Tensor:
            nonlocal v
            spikes, v = rule_scan(x[None], v, self.leak, fire, self.semantics, *limits)
            return spikes[0]

        return step, lambda: v


class Threshold(nn.Module):
    """1 where the input exceeds the threshold, else 0."""

    def __init__(self, node: nir.Threshold, semantics: Semantics, dtype: torch.dtype) -> None:
        super().__init__()
        self.semantics = semantics
        self.k = Coefficients({"threshold": np.asarray(node.threshold, np.float64)}, dtype)

    def forward(self, x: Tensor, surrogate: Surrogate) -> Tensor:
        """[N, ...] -> spikes [N, ...]."""
        fire = Fire(self.k["threshold"], comparison=self.semantics.comparison, surrogate=surrogate)
        return threshold(x, fire)


class Line(nn.Module):
    """x(t - d) per element, d in whole steps."""

    steps: Tensor

    def __init__(self, node: nir.Delay, semantics: Semantics, shape: tuple[int, ...]) -> None:
        super().__init__()
        steps = np.broadcast_to(delay_steps(node, semantics.dt), shape)
        self.longest, self.shortest = int(steps.max(initial=0)), int(steps.min(initial=1))
        self.register_buffer("steps", torch.tensor(np.array(steps)))

    def forward(self, x: Tensor, line: Tensor) -> tuple[Tensor, Tensor]:
        """Input [T, B, ...] and past inputs [longest, B, ...], oldest first -> output, past inputs."""
        past = torch.cat([line, x])
        if self.longest == self.shortest:
            return past[: len(x)], past[len(x) :]
        time = torch.arange(len(x), device=x.device).reshape(-1, *[1] * (x.ndim - 1))
        index = (time + self.longest - self.steps).expand(x.shape)
        return past.gather(0, index), past[len(x) :]
