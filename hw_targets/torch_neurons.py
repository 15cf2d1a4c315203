"""NIR nodes with state, or with a threshold, in PyTorch over [T, B, ...]; state in, state out."""

from __future__ import annotations

from typing import Any, Literal

import nir
import numpy as np
import torch
from torch import Tensor, nn

from rsc.discretise import coefficients, delay_steps
from rsc.hw_targets.torch_fire import rule_scan
from rsc.neurons.scan import Coefficient, Fire, Leak, leak_scan, spike_scan, threshold
from rsc.neurons.surrogate import Surrogate
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

    def forward(
        self, x: Tensor, v: Tensor, i: Tensor | None, surrogate: Surrogate, detach_reset: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Input [T, B, ...] and state [B, ...] -> output [T, B, ...] and the state after the last step."""
        if self.synaptic and i is not None:
            before = i
            x, i = leak_scan(x, i, Leak(self.k["alpha_syn"], self.k["beta_syn"], 0.0))
            if self.semantics.current == "old":
                x = torch.cat([before[None], x[:-1]])
        leak = Leak(self.k["alpha"], self.k["beta"], self.k["c"])
        if not self.fires:
            out, v = leak_scan(x, v, leak)
            return out, v, i
        rule, limit, reset = self.semantics, self.k["v_threshold"], self.k["v_reset"]
        how: Literal["value", "subtract"] = "subtract" if rule.reset == "subtract" else "value"
        fire = Fire(limit, reset, how, rule.comparison, surrogate, detach_reset)
        if self.fused:
            spikes, v = spike_scan(x, v, leak, fire)
        else:
            spikes, v = rule_scan(x, v, leak, fire, rule, self.k.get("v_min"), self.k.get("rate"))
        return spikes, v, i


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
