"""Time of the integer Loihi model against Lava itself and against our float target, in one process.

python benchmarks/loihi.py [--rounds 9] [--batch 512] [--threads 2] [--lava-samples 2] [--json]

Needs the Lava environment (rsc lava install). The networks are those of the Lava study this project started
from: a, 784-256-10; b, 28 x 28, conv 8 3 x 3, conv 16 3 x 3 stride 2, 10. Input spikes have rate 0.1. Rounds
are interleaved: each runs every engine once on the same frames, `loihi` and `torch` on the whole batch, Lava
on the first samples of it. Times are per sample of T steps; those of Lava are its own, the start of its
process and of its network left out. All spike counts of Lava and `loihi` are compared, and the run ends
where they differ.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import time
from itertools import pairwise
from typing import Any

import nir
import numpy as np
import torch
import tyro

from rsc.export.loihi import lower
from rsc.hw_targets import deploy, lava_env
from rsc.hw_targets.lava import LavaTarget
from rsc.hw_targets.lava_job import JobOptions, Recording, execute
from rsc.layered import LayeredProgram
from rsc.program import Program, Semantics
from rsc.results import Probe

DT = 1e-3


def lif(*shape: int, threshold: float) -> nir.LIF:
    """v' = 0.95 v + x."""
    one: Any = np.ones(shape)
    return nir.LIF(20 * DT * one, 20 * one, 0 * one, threshold * one, 0 * one)


def chain(shape: tuple[int, ...], out: tuple[int, ...], **nodes: Any) -> Program:
    """input -> nodes -> output."""
    ends = {"input": nir.Input({"input": np.array(shape)}), **nodes}
    ends["output"] = nir.Output({"output": np.array(out)})
    return Program(nir.NIRGraph(ends, list(pairwise(ends)), type_check=False), Semantics(DT))


def net_a(rng: np.random.Generator) -> Program:
    """784-256-10."""
    return chain(
        (784,),
        (10,),
        w1=nir.Linear(rng.uniform(-1, 1, (256, 784))),
        n1=lif(256, threshold=6.0),
        w2=nir.Linear(rng.uniform(-1, 1, (10, 256))),
        n2=lif(10, threshold=6.0),
    )


def net_b(rng: np.random.Generator) -> Program:
    """28 x 28 x 1, conv 8 3 x 3 padding 1, conv 16 3 x 3 padding 1 stride 2, 10."""
    zeros = np.zeros
    return chain(
        (1, 28, 28),
        (10,),
        c1=nir.Conv2d((28, 28), rng.uniform(-1, 1, (8, 1, 3, 3)), 1, 1, 1, 1, zeros(8)),
        n1=lif(8, 28, 28, threshold=1.5),
        c2=nir.Conv2d((28, 28), rng.uniform(-1, 1, (16, 8, 3, 3)), 2, 1, 1, 1, zeros(16)),
        n2=lif(16, 14, 14, threshold=3.0),
        f=nir.Flatten({"input": np.array([16, 14, 14])}, 0, -1),
        w3=nir.Linear(rng.uniform(-1, 1, (10, 3136))),
        n3=lif(10, threshold=6.0),
    )


NETWORKS = {"a: 784-256-10": (net_a, 100), "b: conv 8-16": (net_b, 60)}


@dataclasses.dataclass
class Options:
    """What is timed."""

    rounds: int = 9
    batch: int = 512
    threads: int = 2
    lava_samples: int = 2
    json: bool = False


class Engines:
    """The engines of one network, and what they are fed."""

    def __init__(self, program: Program, frames: np.ndarray, lava_samples: int) -> None:
        self.frames, self.few = frames, frames[:, :lava_samples]
        self.models = {spec: deploy(program, spec) for spec in ("loihi", "torch")}
        self.layered = lower(program, "integer")
        self.lava = {
            "Lava's models in one process": JobOptions("models"),
            "Lava's models, convolutions as matrices": JobOptions("models", matrices=True),
            "Lava's runtime": JobOptions("runtime"),
        }
        if not any(c.kind == "conv" for layer in self.layered.layers for c in layer.connections):
            del self.lava["Lava's models, convolutions as matrices"]

    def round(self) -> dict[str, float]:
        """Engine -> milliseconds per sample."""
        found, counts = {}, {}
        for name, model in self.models.items():
            start = time.perf_counter()
            counts[name] = model.run_frames(self.frames, Probe()).spikes.counts
            found[name] = 1e3 * (time.perf_counter() - start) / self.frames.shape[1]
        for name, options in self.lava.items():
            records = _lava(self.layered, self.few, options)
            for layer in self.layered.layers:
                expected = counts["loihi"][layer.name][: self.few.shape[1]]
                if not np.array_equal(records[f"{layer.name}.counts"], expected):
                    raise SystemExit(f"{name} counts other spikes in {layer.name}.")
            found[name] = 1e3 * float(records["seconds"]) / self.few.shape[1]
        return found


def _lava(layered: LayeredProgram, frames: np.ndarray, options: JobOptions) -> dict[str, np.ndarray]:
    status = lava_env.status()
    payloads = {s.name: s.payload(frames, "integer") for s in layered.inputs}
    return execute(str(status.python), layered, payloads, Recording(), options)


def main(options: Options) -> None:
    """Measure every network and print a table."""
    missing = LavaTarget().available()
    if missing is not None:
        sys.exit(f"Lava is not here: {missing.reason} {missing.fix}")
    torch.set_num_threads(options.threads)
    results = {}
    for name, (build, steps) in NETWORKS.items():
        rng = np.random.default_rng(0)
        program = build(rng)
        frames = (rng.random((steps, options.batch, *program.input_shape)) < 0.1).astype(np.float32)
        engines = Engines(program, frames, options.lava_samples)
        engines.round()  # the first run of each is slower
        rounds = [engines.round() for _ in range(options.rounds)]
        results[name] = {engine: statistics.median(r[engine] for r in rounds) for engine in rounds[0]}
    if options.json:
        print(json.dumps(results, indent=1))
        return
    for name, medians in results.items():
        print(f"\n{name}, T = {NETWORKS[name][1]}, ms per sample (batch {options.batch}) and ratio to loihi")
        for engine, ms in medians.items():
            print(f"  {engine:42s} {ms:10.3f}  {ms / medians['loihi']:9.2f}")


if __name__ == "__main__":
    main(tyro.cli(Options))
