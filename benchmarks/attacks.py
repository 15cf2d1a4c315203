"""Throughput of attacks: EOT-PGD against foolbox and a plain torch loop, the integer twin against Lava.

python benchmarks/attacks.py [--rounds 5] [--images 64] [--eot 8] [--steps 10] [--lava-samples 2]
    [--dataset fashion-mnist --data-root DIR]

All attack the same network with the same T, EOT draws and steps: digits (or another set), two spiking layers
256 wide, RSC-II. The plain loop is the usual autograd LIF, one noise draw after the other; foolbox (extra
attack-peers) wraps that network and averages logits with all graphs alive. Rounds are interleaved, ratios are
medians within a round. Accuracies after each attack stand beside the times: a quicker attack must not be a
weaker one. The integer twin's scoring is compared with Lava's runtime where it is installed.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from rsc import data
from rsc.allocator import keep_freed_memory
from rsc.export.to_nir import to_program
from rsc.hw_targets import deploy, get_target
from rsc.networks import SpikingSequential
from rsc.neurons import LIF
from rsc.program import EncoderSpec
from rsc.results import Keys, Probe
from rsc.robustness.attacks import Pgd
from rsc.robustness.eot import Eot
from rsc.robustness.evaluate import score
from rsc.robustness.integer import integer_twin
from rsc.robustness.model import ModuleModel, from_module, logits, stream_generator

STEPS, SIGMA, EPS = 8, 0.25, 0.1


class Spike(torch.autograd.Function):
    """The usual hand-written spike: Heaviside, atan backward."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return (u > 0).to(u)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        return grads[0] / (1 + (torch.pi * u).square())


class PlainLif(nn.Module):
    """v <- v/2 + x, fires above 1, hard reset, by autograd."""

    over_time = True

    def forward(self, x: Tensor) -> Tensor:
        v, out = torch.zeros_like(x[0]), []
        for current in x:
            v = v / 2 + current
            s = Spike.apply(v - 1)
            out.append(s)
            v = v * (1 - s.detach())  # type: ignore[union-attr]
        return torch.stack(out)


def network(lif: Callable[[], nn.Module], pixels: int, width: int) -> SpikingSequential:
    torch.manual_seed(0)
    layers = nn.Linear(pixels, width), lif(), nn.Linear(width, width), lif(), nn.Linear(width, 10)
    return SpikingSequential(*layers)


def train(module: nn.Sequential, x: Tensor, y: Tensor) -> None:
    """Some epochs on noisy digits."""
    model = from_module(module, EncoderSpec("rsc2", STEPS, SIGMA), (0.0, 1.0))
    optimiser = torch.optim.Adam(module.parameters(), 3e-3)
    for _ in range(8):
        for rows in torch.randperm(len(x)).split(64):
            loss = nn.functional.cross_entropy(
                logits(model, x[rows], torch.randn(STEPS, *x[rows].shape)), y[rows]
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


class Noisy(nn.Module):
    """The network with its noise inside, as libraries take it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x + SIGMA * torch.randn(STEPS, *x.shape)).mean(0)


def plain_loop(model: Noisy, x: Tensor, y: Tensor, steps: int, eot: int) -> Tensor:
    """The loop everybody writes."""
    z = (x + EPS * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for _ in range(steps):
        grad = torch.zeros_like(z)
        for _ in range(eot):
            image = z.detach().requires_grad_(True)
            nn.functional.cross_entropy(model(image), y).backward()
            grad += image.grad  # type: ignore[operator]
        z = (x + (z + EPS / 4 * grad.sign() - x).clamp(-EPS, EPS)).clamp(0, 1).detach()
    return z


def foolbox_attack(model: Noisy, x: Tensor, y: Tensor, steps: int, eot: int) -> Tensor:
    import foolbox  # pyright: ignore[reportMissingImports]
    from foolbox.models import ExpectationOverTransformationWrapper  # pyright: ignore[reportMissingImports]

    wrapped = ExpectationOverTransformationWrapper(
        foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), n_steps=eot
    )
    attack = foolbox.attacks.LinfPGD(steps=steps, rel_stepsize=0.25)
    return attack.run(wrapped, x, y, epsilon=EPS)


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured."""

    rounds: int = 5
    images: int = 64
    eot: int = 8
    steps: int = 10
    width: int = 256
    threads: int = 1
    lava_samples: int = 2
    dataset: str = "digits"
    data_root: Path | None = None
    train_images: int = 4000


def attacks(options: Options) -> None:
    """EOT-PGD of three engines."""
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as the command does; all rows have it
    rows = [
        (torch.tensor(d.images[:n]).flatten(1), torch.tensor(d.targets[:n]).long())
        for part, n in (("train", options.train_images), ("test", options.images))
        for d in [data.load(options.dataset, part, options.data_root)]  # type: ignore[arg-type]
    ]
    known, (x, y) = rows
    plain = network(PlainLif, x.shape[1], options.width)
    train(plain, *known)
    fused = network(lambda: LIF(0.5, 1.0, inplace=True), x.shape[1], options.width)
    fused.load_state_dict(plain.state_dict(), strict=False)
    fused.eval().requires_grad_(False)
    model: ModuleModel = from_module(fused, EncoderSpec("rsc2", STEPS, SIGMA), (0.0, 1.0))
    noisy = Noisy(plain.eval())

    def ours(**more: Any) -> Tensor:
        eot = Eot(model, options.eot, **more)
        attack = Pgd(steps=options.steps)
        return attack(eot, x, y, EPS, generator=stream_generator(0, "attack"), judge_draws=1).x

    engines: dict[str, Callable[[], Tensor]] = {
        "plain loop": lambda: plain_loop(noisy, x, y, options.steps, options.eot),
        "ours": ours,
        "ours, one draw at a time": lambda: ours(rows=1),
    }
    if importlib.util.find_spec("foolbox"):
        engines["foolbox"] = lambda: foolbox_attack(noisy, x, y, options.steps, options.eot)
    else:
        report("foolbox is not installed (extra attack-peers): left out")
    found = {name: run() for name, run in engines.items()}
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(options.rounds):
        for name, run in engines.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    for name, images in found.items():
        ratio = statistics.median(a / b for a, b in zip(times[name], times["ours"], strict=True))
        rate = options.images * options.steps * options.eot / statistics.median(times[name])
        accuracy = score(model, images, y, 16).per_run.value
        report(
            f"{name:26} {rate:9.0f} gradients/s  x{ratio:5.2f} of ours in CPU time  accuracy {accuracy:.3f}"
        )
    scoring(fused, x, y, options)


def scoring(module: nn.Sequential, x: Tensor, y: Tensor, options: Options) -> None:
    """Samples per second of the integer twin's scoring, and of Lava."""
    program = to_program(module, (x.shape[1],), EncoderSpec("rsc2", STEPS, SIGMA), bounds=(0.0, 1.0))
    twin = integer_twin(program)
    start = time.perf_counter()
    runs = score(twin, x, y, 16)
    ours = 16 * len(x) / (time.perf_counter() - start)
    report(f"integer twin               {ours:9.0f} scored samples/s (accuracy {runs.per_run.value:.3f})")
    if (why := get_target("lava").available()) is not None:
        report(f"Lava left out: {why.reason}")
        return
    few = options.lava_samples
    with deploy(program, "lava") as lava:
        keys = Keys(0, np.arange(few), stream="score")
        wall = lava.run(x[:few].numpy(), keys, Probe(counts=False)).stats.wall_s
    report(
        f"lava                       {few / wall:9.1f} scored samples/s: the twin is x{ours * wall / few:.0f}"
    )


def report(line: str) -> None:
    """One line of the result."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    attacks(tyro.cli(Options))
