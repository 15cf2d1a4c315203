"""Straight-through gradients: exact values, and the derivatives of the network in real numbers."""

from __future__ import annotations

import lava_listing
import numpy as np
import pytest
import torch
from lava_networks import NETWORKS, Kit, frames, network, program, random_program
from torch import Tensor

from rsc.errors import UsageError
from rsc.hw_targets.loihi import LoihiModel
from rsc.layered import CONSTANT, Connection, Layer, LayeredProgram
from rsc.neurons.surrogates import SURROGATES
from rsc.results import Probe

CPU = torch.device("cpu")


def tensors(fed: dict[str, np.ndarray], dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    return {name: torch.tensor(f, dtype=dtype, requires_grad=True) for name, f in fed.items()}


def straight(relaxed: Tensor, exact: np.ndarray) -> Tensor:
    return relaxed + (torch.tensor(exact, dtype=torch.float64) - relaxed).detach()


def relaxed_network(layered: LayeredProgram, fed: dict[str, Tensor]) -> dict[str, Tensor]:
    """The definition, a step at a time with automatic gradients, at the states of the transcription."""
    exact = {s.name: s.payload(fed[s.name].detach().numpy(), "integer") for s in layered.inputs}
    traces = lava_listing.run(layered, exact)
    steps, batch = next(iter(fed.values())).shape[:2]
    past: dict[str, list[Tensor]] = {CONSTANT: [torch.ones(batch, 1, dtype=torch.float64)] * steps}
    for s in layered.inputs:
        scaled = fed[s.name] * s.scale
        past[s.name] = list(straight(torch.where(scaled.abs() < s.maximum + 0.5, scaled, 0), exact[s.name]))
    past |= {layer.name: [] for layer in layered.layers}
    state = {la.name: (torch.zeros(1), torch.tensor(np.asarray(la.v_init), dtype=torch.float64))
             for la in layered.layers}  # fmt: skip
    vs: dict[str, list[Tensor]] = {layer.name: [] for layer in layered.layers}
    for t in range(steps):
        for la in layered.layers:
            a = sum((drive(c, past[c.source], t, la, batch) for c in la.connections), torch.zeros(1))
            u, v = state[la.name]
            trace = traces[la.name]
            u = straight(u * (1 - (number(la.du) + 1) / 4096) + 64 * a, trace.u[t])
            h = straight(v * (1 - number(la.dv) / 4096) + u, before_reset(la, trace, t))
            s = straight(fire((h - number(la.vth) * 64) / (64 * la.scale)), trace.s[t])
            state[la.name] = u, h * (1 - s.detach())
            past[la.name].append(s)
            vs[la.name].append(state[la.name][1])
    out = {}
    for name, layers in layered.outputs:
        out[name] = sum(spoken(layered.by_name[n], torch.stack(past[n]), torch.stack(vs[n])) for n in layers)
    return out  # type: ignore[return-value]


def number(x: object) -> Tensor:
    return torch.tensor(np.asarray(x), dtype=torch.float64)


def fire(x: Tensor) -> Tensor:
    """0 with the derivative of the surrogate atan, 1 / (1 + (pi x)^2), whose integral is atan(pi x) / pi."""
    return torch.atan(torch.pi * x) / torch.pi


def before_reset(layer: Layer, trace: lava_listing.Trace, t: int) -> np.ndarray:
    before = trace.v[t - 1] if t else np.broadcast_to(np.asarray(layer.v_init, np.int64), trace.v[0].shape)
    mantissa, exponent = np.asarray(layer.bias_mant, np.int64), layer.bias_exp
    bias = mantissa << exponent if exponent >= 0 else mantissa >> -exponent
    y = lava_listing.int32(lava_listing.decay(before, np.asarray(layer.dv, np.int64)) + trace.u[t] + bias)
    return np.clip(y, 1 - (1 << 23), (1 << 23) - 1)


def drive(c: Connection, past: list[Tensor], t: int, layer: Layer, batch: int) -> Tensor:
    total = torch.zeros(batch, *layer.shape, dtype=torch.float64)
    for k in np.unique(c.delay).tolist():
        if k > t:
            continue
        x, weight = past[t - k], number(c.weight) * 2.0**c.weight_exp
        if c.delay.ndim:
            weight = weight * (number(c.delay) == k)
        if c.pool:
            (kh, kw), stride = c.pool
            ones = torch.ones(x.shape[1], 1, kh, kw, dtype=torch.float64)
            x = torch.nn.functional.conv2d(x, ones, stride=stride, groups=x.shape[1])
        if c.kind == "dense":
            total = total + (x.reshape(batch, -1) @ weight.T).reshape(total.shape)
        else:
            total = total + torch.nn.functional.conv2d(
                x, weight, None, c.stride, c.padding, c.dilation, c.groups
            )
    return total


def spoken(layer: Layer, s: Tensor, v: Tensor) -> Tensor:
    if not layer.readout:
        return s
    v = v / (64 * layer.scale)
    return v if layer.readout == "state" else torch.cat([v[:1], v[1:] - v[:-1]])


def compare(layered: LayeredProgram, rng: np.random.Generator, steps: int) -> dict[str, Tensor]:
    """Values, and gradients of a random linear function of all outputs; ours is returned."""
    fed = frames(layered, rng, steps, 2)
    fed = {n: (f * (1 + rng.uniform(-0.04, 0.04, f.shape))).astype(np.float32) for n, f in fed.items()}
    model = LoihiModel(None, layered, CPU, straight_through=True)
    ours, theirs = tensors(fed), tensors(fed)
    got, expected = model.forward(ours), relaxed_network(layered, theirs)
    exact = model._steps(fed, Probe()).outputs
    weights = {n: torch.tensor(rng.normal(size=x.shape)) for n, x in exact.items()}
    assert set(got) == set(expected) == set(exact)
    for name, values in exact.items():
        assert got[name].dtype == torch.float64
        assert np.array_equal(got[name].detach().numpy(), values)
    for outputs in (got, expected):
        loss = sum((outputs[n] * w).sum() for n, w in weights.items())
        if torch.is_tensor(loss) and loss.requires_grad:
            loss.backward()
    gradients = {}
    for name in fed:
        mine, other = (x[name].grad if x[name].grad is not None else torch.zeros(1) for x in (ours, theirs))
        assert torch.isfinite(mine).all()  # type: ignore[arg-type]
        torch.testing.assert_close(mine, other.expand_as(mine), rtol=1e-8, atol=1e-12)  # type: ignore[union-attr,arg-type]
        gradients[name] = mine
    return gradients


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_networks(name: str):
    rng = np.random.default_rng(0)
    gradients = compare(network(name, rng), rng, 10)
    assert all((g != 0).any() for g in gradients.values())


def test_gradients_of_random_programs():
    reached = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        gradients = compare(random_program(rng), rng, int(rng.integers(1, 8)))
        reached += any((g != 0).any() for g in gradients.values())
    assert reached > 30


def test_one_neuron_by_hand():
    """Two steps of an accumulator behind one neuron, with the triangle in place of atan."""
    kit = Kit(np.random.default_rng(0))
    c = Connection("x", "dense", np.full((1, 1), 60, np.int32), (1,), graded=True)
    into = Connection("a", "dense", np.full((1, 1), 40, np.int32), (1,))
    quiet = {"bias_mant": np.zeros(1, np.int32), "du": 4095, "dv": 2048}
    layers = kit.lif("a", (1,), c, vth=100, scale=50.0, **quiet), kit.sum("r", (1,), into)
    layered = program(*layers, shape=(1,), input_max=3)
    model = LoihiModel(None, layered, CPU, straight_through=True)
    model.surrogate = SURROGATES["triangle"]
    x = torch.tensor([1.0, 1.0], requires_grad=True)
    model.forward({"x": x.reshape(2, 1, 1)})["output"].sum().backward()
    # h is 60 and 90 weight units, v - vth in float units (60 - 100) / 50 = -0.8 and -0.2: slopes 0.2 and 0.8
    spike = 40 / layers[1].scale * 60 / 50
    assert x.grad is not None
    np.testing.assert_allclose(x.grad, [spike * (0.2 + 0.8 / 2), spike * 0.8], rtol=1e-6)


def test_single_precision_gives_the_same_values_and_close_gradients():
    rng = np.random.default_rng(1)
    layered = network("chain", rng)
    fed = frames(layered, rng, 6, 2)
    model = LoihiModel(None, layered, CPU, straight_through=True)
    wide, single = tensors(fed), tensors(fed, torch.float32)
    a, b = model.forward(wide)["output"], model.forward(single)["output"]
    assert torch.equal(a, b)
    (a.sum() + b.sum()).backward()
    assert single["x"].grad is not None
    assert wide["x"].grad is not None
    torch.testing.assert_close(single["x"].grad.double(), wide["x"].grad, rtol=1e-4, atol=1e-5)


def test_clipped_payloads_have_no_gradient_and_plain_models_none_at_all():
    layered = network("two inputs and outputs", np.random.default_rng(2))
    x = torch.ones(4, 1, 5, dtype=torch.float64)
    y = torch.full((4, 1, 3), 9.0, dtype=torch.float64, requires_grad=True)
    model = LoihiModel(None, layered, CPU, straight_through=True)
    model.forward({"x": x, "y": y})["second"].sum().backward()
    assert y.grad is not None
    assert not y.grad.any()
    with pytest.raises(UsageError, match="no gradient"):
        LoihiModel(None, layered, CPU).forward({"x": x, "y": y})
