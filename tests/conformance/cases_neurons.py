"""Spiking neurons: the equations stepped one neuron at a time, and periods known in closed form."""

from __future__ import annotations

import math
from typing import Any

import nir
import numpy as np
from cases import Case, one
from graphs import DT, chain, dyadic, neuron
from oracles import every, fire

from rsc.program import Semantics

TAU = np.array([1.0, 2.0, 4.0]) * DT
R = np.array([2.0, -4.0, 3.0])
LEAK = np.array([0.0, 0.5, -0.25])
LIMIT = np.array([0.5, 1.0, 0.75])
RESET = np.array([0.0, -0.5, 0.25])
FRAMES = dyadic(21, 8, 3, 3) * 2


def resets(n: int, semantics: Semantics) -> Any:
    return (lambda v: v - LIMIT[n]) if semantics.reset == "subtract" else (lambda v: RESET[n])


def lif_case(name: str, **rules: Any) -> Case:
    """LIF with own parameters per neuron: v <- v + dt/tau (v_leak - v + R x)."""
    semantics = Semantics(dt=DT, **rules)

    def simulate(currents: np.ndarray, n: int) -> np.ndarray:
        def advance(v: float, x: float) -> float:
            return v + DT / TAU[n] * (LEAK[n] - v + R[n] * x)

        return fire(currents, advance, LIMIT[n], resets(n, semantics), semantics.comparison == ">")

    node = neuron(nir.LIF, 3, tau=TAU, r=R, v_leak=LEAK, v_threshold=LIMIT, v_reset=RESET)
    return one(name, chain((3,), (3,), n=node), FRAMES, every(simulate, FRAMES), semantics=semantics)


def if_case(name: str, **rules: Any) -> Case:
    """IF: v <- v + dt R x."""
    semantics = Semantics(dt=DT, **rules)

    def simulate(currents: np.ndarray, n: int) -> np.ndarray:
        limit, strict = LIMIT[n], semantics.comparison == ">"
        return fire(currents, lambda v, x: v + R[n] * x, limit, resets(n, semantics), strict)

    node = neuron(nir.IF, 3, r=R / DT, v_threshold=LIMIT, v_reset=RESET)
    return one(name, chain((3,), (3,), n=node), FRAMES, every(simulate, FRAMES), semantics=semantics)


def cuba_case(name: str, **rules: Any) -> Case:
    """CubaLIF: i <- i + dt/tau_syn (w x - i), then v <- v + dt/tau_mem (v_leak - v + R i)."""
    semantics = Semantics(dt=DT, **rules)
    tau_syn, w_in = np.array([2.0, 1.0, 2.0]) * DT, np.array([2.0, 1.0, -3.0])

    def simulate(currents: np.ndarray, n: int) -> np.ndarray:
        i = 0.0

        def advance(v: float, x: float) -> float:
            nonlocal i
            i += DT / tau_syn[n] * (w_in[n] * x - i)
            return v + DT / TAU[n] * (LEAK[n] - v + R[n] * i)

        return fire(currents, advance, LIMIT[n], resets(n, semantics), semantics.comparison == ">")

    fields = {"tau_mem": TAU, "tau_syn": tau_syn, "r": R, "w_in": w_in, "v_leak": LEAK}
    node = neuron(nir.CubaLIF, 3, v_threshold=LIMIT, v_reset=RESET, **fields)
    return one(name, chain((3,), (3,), n=node), FRAMES, every(simulate, FRAMES), semantics=semantics)


def spike_times(period: int, steps: int) -> np.ndarray:
    """A spike at every `period`-th step, [T, 1, 1]."""
    return ((np.arange(1, steps + 1) % period) == 0).astype(float).reshape(-1, 1, 1)


def period_cases() -> list[Case]:
    """Constant input: a LIF fires at the first n with R x (1 - a^n) > threshold, then starts again."""
    steps, x = 40, np.ones((40, 1, 1))
    tau, drive = 16 * DT, 1.5
    euler, exact = 1 - DT / tau, math.exp(-DT / tau)

    def period(kept: float) -> int:
        return math.floor(math.log(1 - 1 / drive) / math.log(kept)) + 1

    lif = chain((1,), (1,), n=neuron(nir.LIF, 1, tau=tau, r=drive))
    leak_only = chain((1,), (1,), n=neuron(nir.LIF, 1, tau=tau, v_leak=drive))
    charge = chain((1,), (1,), n=neuron(nir.IF, 1, r=0.25 / DT))
    at_least, later = Semantics(dt=DT, comparison=">="), Semantics(dt=DT, integrator="exponential")
    soft = Semantics(dt=DT, reset="subtract")
    # v rises by 1/4: it exceeds 1 at the fifth step; subtraction leaves 1/4, so four steps more suffice.
    late = np.concatenate([np.zeros((1, 1, 1)), spike_times(4, steps - 1)])
    return [
        one("LIF period, Euler", lif, x, spike_times(period(euler), steps)),
        one("LIF period, exponential", lif, x, spike_times(period(exact), steps), semantics=later),
        one("LIF fires by its leak alone", leak_only, 0 * x, spike_times(period(euler), steps)),
        one("IF, strictly above", charge, x, spike_times(5, steps)),
        one("IF, at least", charge, x, spike_times(4, steps), semantics=at_least),
        one("IF, subtract", charge, x, late, semantics=soft),
    ]


def image_case() -> Case:
    """Neurons over [C, H, W] with parameters per channel broadcast along it."""
    frames, limit = dyadic(22, 5, 2, 2, 3, 3), np.array([0.25, 0.75]).reshape(2, 1, 1)
    node = neuron(nir.LIF, 2, 1, 1, v_threshold=limit)

    def simulate(currents: np.ndarray, n: int) -> np.ndarray:
        threshold = limit.ravel()[n // 9]
        return fire(currents, lambda v, x: v / 2 + x, threshold, lambda v: 0.0)

    flat = every(simulate, frames.reshape(5, 2, 18))
    of = chain((2, 3, 3), (2, 3, 3), n=node)
    return one("LIF over channels", of, frames, flat.reshape(frames.shape))


SPIKING = [
    lif_case("LIF per neuron"),
    lif_case("LIF per neuron, >=", comparison=">="),
    lif_case("LIF per neuron, subtract", reset="subtract"),
    if_case("IF per neuron"),
    if_case("IF per neuron, >=, subtract", comparison=">=", reset="subtract"),
    cuba_case("CubaLIF per neuron"),
    cuba_case("CubaLIF per neuron, subtract", reset="subtract"),
    *period_cases(),
    image_case(),
]
