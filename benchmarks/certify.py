"""Certification throughput: draws per second of `certify` against a plain loop in torch on the same network.

python benchmarks/certify.py [--network mlp] [--rounds 5] [--n 2000] [--json]

The plain loop is what one writes first: one image at a time, draws in batches of a fixed size (1,000 in the
code of Cohen et al.; others are tried, too), frames for the whole batch, layer after layer at each step with
the membrane in a variable. With keyed noise both see the same frames, so the counts are compared as well;
with the device's generator only the time is. Rounds are interleaved: each runs all once, so that a change
of load hits all alike; the table gives medians of CPU time, and the ratio to the best of the plain loops.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from rsc import Keys
from rsc.allocator import keep_freed_memory
from rsc.coding import draw_noise, encode, encode_torch
from rsc.encoder_spec import EncoderSpec
from rsc.networks import NetworkSpec, build
from rsc.neurons import LIF
from rsc.robustness.certify_count import Job, Series, batch_for, count, frame_bytes
from rsc.robustness.model import from_module
from rsc.robustness.predict import Generated, Keyed

SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar": (3, 32, 32)}


@dataclasses.dataclass
class Options:
    """What is timed."""

    network: str = "mlp"
    channels: tuple[int, ...] = (128, 64)
    images: str = "digits"
    encoder: str = "rsc2"
    steps: int = 4
    sigma: float = 0.25
    grid: int | None = None
    count: int = 4
    n: int = 2000
    rounds: int = 5
    plain_batches: tuple[int, ...] = (100, 1000)
    threads: int = 1
    device: str = "cpu"
    json: bool = False


@torch.inference_mode()
def plain_logits(network: nn.Module, frames: Tensor) -> Tensor:
    """Mean output over the steps of a sequential network of torch layers and LIF neurons."""
    layers = list(network.children())
    v: dict[int, Tensor] = {}
    total = torch.zeros(())
    for frame in frames:
        x = frame
        for k, layer in enumerate(layers):
            if isinstance(layer, LIF):
                h = v.get(k, torch.zeros_like(x)) * layer.decay + x
                x = (h > layer.v_threshold).to(h.dtype)
                v[k] = h * (1 - x)
            else:
                x = layer(x)
        total = total + x
    return total / len(frames)


def plain_counts(
    network: nn.Module,
    encoder: EncoderSpec,
    image: np.ndarray,
    sample: int,
    n: int,
    batch: int,
    generator: torch.Generator | None,
    device: str,
) -> np.ndarray:
    """Classes of n draws of one image."""
    counts = np.zeros(10, np.int64)
    for at in range(0, n, batch):
        size = min(batch, n - at)
        x = np.broadcast_to(image, (size, *image.shape))
        if generator is None:
            keys = Keys(0, np.full(size, sample), np.arange(at, at + size), "estimate")
            frames = torch.from_numpy(encode(encoder, x, keys)).to(device)
        else:
            like = torch.tensor(np.ascontiguousarray(x), device=device)
            frames = encode_torch(encoder, like, draw_noise(encoder, like, generator))
        classes = plain_logits(network, frames).argmax(1).cpu().numpy()
        counts += np.bincount(classes, minlength=10)
    return counts


def main(options: Options) -> None:
    """Time and print."""
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as the command does; all rows have it
    shape = SHAPES[options.images]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        spec = NetworkSpec(
            options.network, options.channels, norm="batch" if options.network == "mlp" else "none"
        )
        network = build(spec, shape, 10).to(options.device).eval().requires_grad_(False)
    encoder = EncoderSpec(options.encoder, options.steps, options.sigma, grid=options.grid)  # type: ignore[arg-type]
    model = from_module(network, encoder, (0.0, 1.0))
    images = np.random.default_rng(0).random((options.count, *shape), np.float32)

    def ours(predict: Any) -> np.ndarray:
        series = (Series(predict, "estimate", options.n),)
        batch = batch_for(shape, options.steps, frame_bytes(predict))
        job = Job(images, np.arange(len(images)), series, 0, 1024, batch)
        return np.array([[t[0].get(c, 0) for c in range(10)] for t in count(job)])

    def plain(batch: int, keyed: bool) -> np.ndarray:
        source = None if keyed else torch.Generator(options.device).manual_seed(0)
        return np.array(
            [
                plain_counts(network, encoder, x, i, options.n, batch, source, options.device)
                for i, x in enumerate(images)
            ]
        )

    rows: dict[str, Callable[[], np.ndarray]] = {
        "keyed: certify": lambda: ours(Keyed(model)),
        **{f"keyed: plain, {b}": lambda b=b: plain(b, True) for b in options.plain_batches},
        "generator: certify": lambda: ours(Generated(model)),
        **{f"generator: plain, {b}": lambda b=b: plain(b, False) for b in options.plain_batches},
    }
    times: dict[str, list[float]] = {name: [] for name in rows}
    counts: dict[str, np.ndarray] = {}
    for turn in range(options.rounds + 1):
        for name, run in rows.items():
            start = time.process_time() if options.device == "cpu" else time.perf_counter()
            counts[name] = run()
            spent = (time.process_time() if options.device == "cpu" else time.perf_counter()) - start
            if turn:  # the first round warms up
                times[name].append(spent)
    draws = options.count * options.n
    speed = {name: draws / statistics.median(spent) for name, spent in times.items()}
    moved = {
        name: int(abs(found - counts["keyed: certify"]).sum() // 2)
        for name, found in counts.items()
        if name.startswith("keyed")
    }
    if options.json:
        print(json.dumps({"draws_per_s": speed, "draws": draws, "other_counts": moved, "s": times}, indent=2))
        return
    print(f"{'':28}{'draws/s':>12}{'x best plain':>14}{'draws counted otherwise':>26}")
    for name, value in speed.items():
        kind = name.split(":")[0]
        best = max(v for other, v in speed.items() if other.startswith(f"{kind}: plain"))
        print(f"{name:28}{value:12,.0f}{value / best:14.2f}{moved.get(name, ''):>26}")


if __name__ == "__main__":
    main(tyro.cli(Options))
