"""Convolutions in a row reach Loihi as one kernel, and scales are found without rounding what cannot fit."""

from __future__ import annotations

import dataclasses

import nir
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rsc.encoder_spec import EncoderSpec
from rsc.export.kernels import joined_kernel
from rsc.export.loihi import lower
from rsc.export.quantise import SUM_MAX, InputRange, _fits, _full_scale, _least_bound, sum_bound
from rsc.export.sums import Sums
from rsc.export.synapses import float_layers
from rsc.export.to_nir import to_program
from rsc.hw_targets import deploy
from rsc.layered import Connection
from rsc.networks import NetworkSpec, build
from rsc.program import Program
from rsc.quantiser import Quantiser


def conv(
    source: int, out: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1
) -> nir.Conv2d:
    draw = np.random.Generator(np.random.PCG64([source, out, kernel, stride, padding]))
    weight = draw.normal(size=(out, source // groups, kernel, kernel))
    return nir.Conv2d((11, 13), weight, stride, padding, dilation, groups, np.zeros(out))


def through(x: torch.Tensor, weight: np.ndarray, like: object) -> torch.Tensor:
    """torch's own convolution with the fields of a node or kernel."""
    pairs = {
        k: tuple(map(int, np.broadcast_to(getattr(like, k), 2))) for k in ("stride", "padding", "dilation")
    }
    return F.conv2d(x, torch.from_numpy(np.asarray(weight)), groups=int(like.groups), **pairs)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "chain",
    [
        (conv(3, 4, 3, 1, 1), conv(4, 5, 1, 2)),
        (conv(3, 4, 3, 2, 1), conv(4, 5, 1, 2), conv(5, 2, 1, 2)),
        (conv(3, 4, 5, 2, 2, dilation=2), conv(4, 3, 1)),
        (conv(3, 6, 1), conv(6, 2, 3, 2, 1)),
        (conv(3, 6, 1), conv(6, 2, 3, 2, 2, dilation=2), conv(2, 4, 1, 3)),
        (conv(3, 4, 1, 2), conv(4, 5, 1, 2)),
    ],
    ids=lambda chain: f"{len(chain)} of them",
)
def test_one_kernel_does_what_the_convolutions_do(chain: tuple[nir.Conv2d, ...]) -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 11, 13)))
    expected = x
    for node in chain:
        expected = through(expected, node.weight, node)
    kernel = joined_kernel(chain)
    assert kernel is not None
    torch.testing.assert_close(through(x, kernel.weight, kernel), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "chain",
    [
        (conv(3, 4, 3, 1, 1), conv(4, 5, 3, 1, 1)),
        (conv(3, 4, 1, 2), conv(4, 5, 3, 1, 1)),
        (conv(3, 4, 3, 1, 1), conv(4, 5, 1, 1, 1)),
        (conv(4, 4, 3, 1, 1, groups=2), conv(4, 5, 1)),
    ],
    ids=["two that look around", "a sparse first", "padded points", "groups"],
)
def test_what_is_no_single_kernel_is_left_alone(chain: tuple[nir.Conv2d, ...]) -> None:
    assert joined_kernel(chain) is None


def residual(width: float, steps: int = 4) -> tuple[torch.nn.Module, Program]:
    """ResNet-18 whose shortcuts carry membranes, with norms as after a training."""
    torch.manual_seed(3)
    network = build(NetworkSpec("resnet18", width=width, form="ms"), (3, 8, 8), 10).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.1, 0.1)
    return network, to_program(network, (3, 8, 8), EncoderSpec("direct", steps), bounds=(0.0, 1.0))


def test_shortcuts_of_membranes_become_kernels_that_do_what_the_network_does() -> None:
    network, program = residual(1 / 16)
    exact = lower(program, "float")
    kinds = [c.kind for layer in exact.layers for c in layer.connections]
    assert kinds.count("dense") == 1, "the classifier"
    frames = np.random.default_rng(1).random((4, 6, 3, 8, 8), np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(frames)).mean(0)
    with deploy(program, "loihi") as model:
        found = model.run_frames(frames).logits
    spread = float(expected.std())
    assert np.abs(found - expected.numpy()).mean() < 0.5 * spread, "integers, but the same network"
    assert np.corrcoef(found.ravel(), expected.numpy().ravel())[0, 1] > 0.8


@pytest.mark.parametrize("graded", [False, True])
@pytest.mark.parametrize("bits", [3, 8, 9])
def test_the_least_bound_is_never_above_that_of_the_rounded_weights(bits: int, graded: bool) -> None:
    draw, rules = np.random.default_rng(bits), Quantiser(bits)
    entry = {"x": InputRange(8.0, 6.0, 2.5, 40)}
    for _ in range(60):
        weight = (
            draw.normal(size=(4, 3, 3, 3)) * 10 ** draw.uniform(-3, 1) * (draw.random((4, 3, 3, 3)) < 0.7)
        )
        pool = ((2, 2), (2, 2)) if not graded and draw.random() < 0.5 else None
        connection = Connection("x", "conv", weight, (3, 8, 8), pool=pool, graded=graded)
        layer = dataclasses.replace(LAYER, connections=(connection,))
        scale = _full_scale(layer, entry, rules) * draw.uniform(0.01, 1)
        least = _least_bound(layer, [Sums.of(connection)], entry, 4, scale, rules)
        made = _fits(layer, entry, 4, scale, rules, 1.0)
        assert made is not None
        reached = sum_bound(made.connections[0], entry)
        assert least <= reached
        if bits > 3:
            assert least > 0.5 * reached, "and it is worth asking"


def test_scales_are_those_of_a_search_that_rounds_at_every_step() -> None:
    exact, _ = float_layers(residual(1 / 16)[1])
    assert exact is not None
    made = lower(residual(1 / 16)[1])
    inputs = {s.name: InputRange.at(EncoderSpec("direct", 4), (0.0, 1.0), s.scale) for s in made.inputs}
    for before, after in zip(exact.layers, made.layers, strict=True):
        scale = _full_scale(before, inputs, Quantiser())
        while (found := _fits(before, inputs, 4, scale, Quantiser())) is None:
            scale *= 0.97
        assert found.scale == after.scale
        assert sum(sum_bound(c, inputs) for c in found.connections) <= SUM_MAX


LAYER = dataclasses.replace(
    lower(
        to_program(build(NetworkSpec("convnet", (4,)), (3, 8, 8), 2).eval(), (3, 8, 8), None), "float"
    ).layers[0],
    vth=0.0,
    bias_mant=np.zeros((4, 8, 8)),
)
