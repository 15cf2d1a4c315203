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


def common_case(name: str, kind: type = nir.LIF, **changes: Any) -> Case:
    """Three neurons as most tools write them: tau 4 steps, r 1, all else at rest; `changes` in steps.

    The thresholds lie off the grid of the values, so that > and >= are the same.
    """
    fields: dict[str, Any] = {"r": 1.0, "v_threshold": 0.25}
    off = 2.0**-20
    if kind is nir.CubaLIF:
        fields |= {"tau_mem": 4.0, "tau_syn": 2.0, "r": 4.0, "w_in": 2.0, "v_threshold": 1.5}
    elif kind is nir.LIF:
        fields |= {"tau": 4.0}
    fields = {k: np.broadcast_to(v, 3) for k, v in (fields | changes).items()}
    fields["v_threshold"] = fields["v_threshold"] + off
    units = {"r": 1 / DT} if kind is nir.IF else {"tau": DT, "tau_mem": DT, "tau_syn": DT}
    node = neuron(kind, 3, **{k: v * units.get(k, 1.0) for k, v in fields.items()})
    leak, reset = fields.get("v_leak", np.zeros(3)), fields.get("v_reset", np.zeros(3))

    def simulate(currents: np.ndarray, n: int) -> np.ndarray:
        i = 0.0

        def advance(v: float, x: float) -> float:
            nonlocal i
            if kind is nir.IF:
                return v + fields["r"][n] * x
            if kind is nir.CubaLIF:
                i += (fields["w_in"][n] * x - i) / fields["tau_syn"][n]
                return v + (leak[n] - v + fields["r"][n] * i) / fields["tau_mem"][n]
            return v + (leak[n] - v + fields["r"][n] * x) / fields["tau"][n]

        return fire(currents, advance, fields["v_threshold"][n], lambda v: float(reset[n]))

    return one(name, chain((3,), (3,), n=node), FRAMES, every(simulate, FRAMES))


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


EACH = np.array([2.0, 4.0, 8.0])

SPIKING = [
    common_case("IF, r = 1/dt", nir.IF, v_threshold=1.0),
    common_case("LIF, r = 1"),
    common_case("LIF, r = tau/dt", r=4.0, v_threshold=1.0),
    common_case("LIF, r = 3", r=3.0, v_threshold=0.75),
    common_case("LIF, v_leak", v_leak=0.125),
    common_case("LIF, v_reset", v_reset=-0.5),
    common_case("LIF, tau and threshold per neuron", tau=EACH, v_threshold=np.array([0.25, 0.125, 0.375])),
    common_case("CubaLIF, r = tau_mem/dt, w_in = tau_syn/dt", nir.CubaLIF),
    common_case("CubaLIF, r = 1, w_in = 1", nir.CubaLIF, r=1.0, w_in=1.0, v_threshold=0.25),
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
