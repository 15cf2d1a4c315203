"""Time per image of every target on the same program, images and noise, in one process.

python benchmarks/targets.py BUNDLE [--rounds 5] [--images 128] [--slow-images 16]

Rounds are interleaved: each runs all targets once, so a change of load hits all alike. The table gives
the median over the rounds, start-up of worker processes included, and the ratio to the slowest.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Annotated

import torch
import tyro

from rsc import Keys, Probe, deploy
from rsc.bundle import load_program
from rsc.data import load
from rsc.hw_targets import get_target

QUICK = ("reference", "torch", "torch:float64", "norse", "loihi")
SLOW = ("lava", "lava:float", "lava:conv", "lava:runtime")


@dataclasses.dataclass
class Options:
    """What is timed."""

    bundle: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="BUNDLE")]
    rounds: int = 5
    images: int = 128
    slow_images: int = 16
    threads: int = 1
    json: bool = False


def main(options: Options) -> None:
    """Time and print."""
    torch.set_num_threads(options.threads)
    program = load_program(options.bundle)
    data = load("digits", "test")
    models = {spec: deploy(program, spec) for spec in (*QUICK, *SLOW) if get_target(spec).available() is None}
    times: dict[str, list[float]] = {spec: [] for spec in models}
    for turn in range(options.rounds + 1):
        for spec, model in models.items():
            part = data.head(options.slow_images if spec in SLOW else options.images)
            start = time.perf_counter()
            model.run(part.images, Keys(turn, part.ids), Probe(counts=False))
            if turn:  # the first round warms up
                times[spec].append(1000 * (time.perf_counter() - start) / len(part))
    medians = {spec: statistics.median(values) for spec, values in times.items()}
    if options.json:
        print(json.dumps({"ms_per_image": medians, "rounds": times}, indent=2))
        return
    slowest = max(medians.values())
    print(f"{'target':16}{'ms per image':>14}{'times faster than the slowest':>32}")
    for spec, value in sorted(medians.items(), key=lambda item: item[1]):
        print(f"{spec:16}{value:14.3f}{slowest / value:32.1f}")


if __name__ == "__main__":
    main(tyro.cli(Options))
