"""What makes networks fast changes no value: tiles of samples, the gradient of pooling, memory kept."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from rsc.networks import NetworkSpec, SpikingSequential, build, tiles
from rsc.networks.average_pool import average_pool
from rsc.neurons import LIF


def normed(spec: NetworkSpec, shape: tuple[int, int, int], steps: int) -> SpikingSequential:
    """A network in float64 with statistics and spikes, in eval mode."""
    torch.manual_seed(0)
    network = build(spec, shape, 4).double()
    network(torch.rand(steps, 16, *shape, dtype=torch.float64) * 3)
    return network.eval()


@pytest.mark.parametrize("samples", [1, 3, 100])
@pytest.mark.parametrize("name", ["mlp", "convnet", "resnet18"])
def test_inference_in_tiles_equals_inference_in_one_piece(
    name: str, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = name in ("mlp", "convnet")
    spec = NetworkSpec(name, channels=(6, 8)) if free else NetworkSpec(name, width=0.05)
    network = normed(spec, (2, 8, 8), steps=3)
    frames = torch.rand(3, 7, 2, 8, 8, dtype=torch.float64) * 3
    whole = network(frames).detach()  # with gradients: in one piece
    seen: list[int] = []
    run = SpikingSequential._run

    def spy(self: SpikingSequential, x: Tensor) -> Tensor:
        if self is network:
            seen.append(x.shape[1])
        return run(self, x)

    monkeypatch.setattr(SpikingSequential, "_run", spy)
    with torch.no_grad():
        network(frames)
        monkeypatch.setattr(tiles, "TILE_BYTES", samples * max(network.__dict__["_sizes"].values()))
        seen.clear()
        cut = network(frames)
    assert seen == {1: [1] * 7, 3: [3, 3, 1], 100: [7]}[samples]
    assert whole.abs().sum() > 0
    torch.testing.assert_close(cut, whole, rtol=1e-12, atol=1e-12)


def test_whoever_listens_to_a_layer_sees_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE_BYTES", 1)
    network = SpikingSequential(nn.Linear(4, 5), LIF()).eval()
    frames, seen = torch.rand(2, 6, 4), []
    hook = lambda layer, args, out: seen.append(tuple(out.shape))  # noqa: E731
    network[1].register_forward_hook(hook)
    with torch.no_grad():
        network(frames)
    assert seen == [(2, 6, 5)]


def test_training_statistics_are_those_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE_BYTES", 1)
    layer = nn.BatchNorm2d(2, momentum=1.0)
    frames = torch.rand(3, 5, 2, 4, 4)
    with torch.no_grad():
        SpikingSequential(layer, LIF()).train()(frames)
    torch.testing.assert_close(layer.running_mean, frames.mean((0, 1, 3, 4)))


POOLS = [nn.AvgPool2d(2), nn.AvgPool2d((3, 1)), nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(2, divisor_override=3)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("layer", [*POOLS, nn.AvgPool2d(5), nn.AvgPool2d(4, ceil_mode=True)], ids=str)
def test_pooling_has_the_gradient_of_torch_bit_by_bit(
    layer: nn.AvgPool2d, layout: torch.memory_format
) -> None:
    torch.manual_seed(1)
    x = torch.randn(2, 3, 6, 6).contiguous(memory_format=layout).requires_grad_()
    ours, theirs = average_pool(layer, x), layer(x)
    grad = torch.randn_like(theirs)
    assert torch.equal(ours, theirs)
    assert torch.equal(*(torch.autograd.grad(y, x, grad)[0] for y in (ours, theirs)))


def test_pooling_has_second_derivatives() -> None:
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: average_pool(POOLS[0], x) ** 2, (x,))


FAULTS = """
import resource, torch
from rsc.allocator import keep_freed_memory
if {keep} and not keep_freed_memory():
    print("no mallopt")
    raise SystemExit
for round in range(20):
    if round == 15:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_memory_that_is_kept_is_not_cleared_again() -> None:
    done = [
        subprocess.run(
            [sys.executable, "-c", FAULTS.format(keep=keep)],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout.strip()
        for keep in (False, True)
    ]
    if "no mallopt" in done:
        pytest.skip("the C library has no mallopt")
    given_back, kept = map(int, done)
    assert kept * 10 < given_back
