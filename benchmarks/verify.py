"""Verified L_inf balls of deployed integers, with and without interval training; and no attack breaks one.

python benchmarks/verify.py [--images 300] [--draws 1000] [--hidden 64] [--json]

A small MLP on the 8x8 digits (T = 4, rsc2, sigma 0.25) is trained plainly and with interval training (eps
0.1), quantised for Loihi, and every (image, noise draw, radius) is bounded.

"by noise" is the certificate of the noise alone, converted to L_inf; "hybrid" is seeds times intervals; both
at confidence 1 - alpha per image.
R19: PGD on the integers, knowing the noise, and random corners look for an image that breaks a proved ball;
a single one would be a defect.
"""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import torch
import tyro

from rsc import pipeline
from rsc.data import Dataset
from rsc.hw_targets import deploy
from rsc.networks import NetworkSpec
from rsc.program import Program
from rsc.results import Keys, Probe
from rsc.robustness.attacks import Pgd
from rsc.robustness.ball import parse_eps
from rsc.robustness.eot import Eot
from rsc.robustness.integer import integer_twin
from rsc.robustness.intervals import IntervalProgram
from rsc.robustness.intervals_images import Coded, ball
from rsc.robustness.intervals_margin import Readout, proved
from rsc.robustness.model import stream_generator
from rsc.robustness.verify import VerifyPlan, verify
from rsc.training import TrainConfig
from rsc.training.config import EncoderConfig
from rsc.training.losses import CrossEntropy, Interval
from rsc.training.objective import ObjectiveConfig


@dataclasses.dataclass
class Options:
    """What is measured; `attacked` images are attacked for R19."""

    images: int = 300
    draws: int = 1000
    hidden: tuple[int, ...] = (64,)
    epochs: int = 60
    eps: tuple[str, ...] = ("1/64", "1/32", "1/16", "1/8")
    train_eps: float = 0.1
    ramp: int = 600
    attacked: int = 100
    threads: int = 1
    json: bool = False


def config(options: Options, interval: bool) -> TrainConfig:
    """Plain training, or half of the loss on the worst of the box."""
    terms = (CrossEntropy(),)
    if interval:
        terms = (CrossEntropy(weight=0.5), Interval(eps=options.train_eps, ramp=options.ramp))
    return TrainConfig(
        dataset="digits",
        epochs=options.epochs,
        batch_size=64,
        lr=3e-3,
        network=NetworkSpec("mlp", options.hidden),
        encoder=EncoderConfig(steps=4, sigma=0.25, normalise=False),
        objective=ObjectiveConfig(terms=terms),
    )


def broken(program: Program, data: Dataset, eps: float) -> tuple[int, int]:
    """(balls proved under draw 0, those in which an attack finds another class)."""
    assert program.encoder is not None
    assert program.bounds is not None
    keys = Keys(0, data.ids, 0, "estimate")
    with deploy(program, "loihi") as model:
        readout = Readout(IntervalProgram(model.layered), program.semantics.readout)  # type: ignore[attr-defined]
        coded = Coded.drawn(readout.program.layered, program.encoder, keys)
        y = torch.from_numpy(data.targets)
        low, high = ball(data.images, eps, program.bounds)
        safe = proved(readout.margins(readout.program.bounds(coded.boxes(low, high)), y)).numpy()
        eot = Eot(integer_twin(program), 1, "frozen", keys=keys)
        x = torch.from_numpy(np.asarray(data.images, np.float32))
        found = Pgd(steps=40, restarts=2)(eot, x, y, eps, generator=stream_generator(0, "attack"))
        rng = np.random.default_rng(0)
        corners = [np.where(rng.random(low.shape) < 0.5, low, high) for _ in range(20)]
        wrong = np.zeros(len(data), bool)
        for images in (found.x.numpy(), *corners):
            inside = np.clip(images, low, high).astype(np.float32)
            wrong |= model.run(inside, keys, Probe(counts=False)).predictions != data.targets
    return int(safe.sum()), int((safe & wrong).sum())


def measured(options: Options, interval: bool) -> list[dict[str, object]]:
    """One row per radius."""
    made = pipeline.train(config(options, interval), "verify")
    assert made.program is not None
    data = made.test.head(options.images)
    plan = VerifyPlan(options.eps, options.draws)
    report = verify(made.program, data.images, data.targets, plan, samples=data.ids)
    sys.stderr.write(f"{report.boxes:,} balls in {report.wall_s:.0f} s\n")
    rows = []
    for row in report.rows:
        safe, counter = broken(made.program, data.head(options.attacked), parse_eps(row.eps_text)[0])
        rows.append(
            {
                "training": "interval" if interval else "plain",
                "eps": row.eps_text,
                "clean": round(report.clean.value, 3),
                "by noise": round(row.by_noise, 3),
                "hybrid": round(row.certified, 3),
                "per run": round(row.per_run, 3),
                "undecided": round(row.unstable, 3),
                "attacked": safe,
                "broken": counter,
            }
        )
    return rows


def main(options: Options) -> None:
    """Measure both and print."""
    torch.set_num_threads(options.threads)
    rows = [row for interval in (False, True) for row in measured(options, interval)]
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")


if __name__ == "__main__":
    main(tyro.cli(Options))
