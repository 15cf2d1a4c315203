"""Time of the integer Loihi model against Lava, lava-dl's slayer and our float target.

python benchmarks/loihi.py [--rounds 9] [--batch 512] [--threads 2] [--lava-samples 2] [--slayer-samples 64]

Needs the Lava environment (rsc lava install). lava-dl needs Python 3.10: RSC_LAVA_DL_PYTHON names the
interpreter of an environment that has it, and without it slayer is left out. The networks are those of the
Lava study this project started from: a, 784-256-10; b, 28 x 28, conv 8 3 x 3, conv 16 3 x 3 stride 2, 10.
Input spikes have rate 0.1. Rounds are interleaved: each runs every engine once on the same frames, `loihi`
and `torch` on the whole batch, Lava and slayer (a child process that waits between its turns) on the first
samples of it. Times are per sample of T steps; those of Lava and slayer are their own, the start of process
and network left out. Ratios are medians of the ratios within a round; those of CPU time (not known of Lava)
suffer less from other load. Spike counts of Lava and `loihi`, and of slayer's last layer, are compared, and
the run ends where they differ.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
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
    slayer_samples: int = 64
    networks: str = "ab"
    json: bool = False


class Slayer:
    """lava-dl's slayer in a child process, see `loihi_slayer.py`.

    Args:
        python: interpreter of an environment with lava-dl.
        frames: [T, B, ...].
    """

    def __init__(self, python: str, layered: LayeredProgram, frames: np.ndarray, threads: int) -> None:
        self.samples = frames.shape[1]
        self.folder = tempfile.TemporaryDirectory()
        self.job = Path(self.folder.name) / "job.npz"
        layers, weights = [], {}
        for i, layer in enumerate(layered.layers):
            (c,) = layer.connections
            numbers = {"vth": int(layer.vth), "du": int(layer.du), "dv": int(layer.dv)}
            layers.append(numbers | {"kind": c.kind, "stride": c.stride, "padding": c.padding})
            weights[f"weight{i}"] = c.weight
        np.savez(
            self.job, layers=np.frombuffer(json.dumps(layers).encode(), np.uint8), frames=frames, **weights
        )
        script = Path(__file__).with_name("loihi_slayer.py")
        command = [python, str(script), str(self.job), str(threads)]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer(until="ready")

    def seconds(self) -> tuple[float, float]:
        """Wall and CPU time of one run."""
        self._say("run")
        wall, cpu = self._answer().split()
        return float(wall), float(cpu)

    def counts(self) -> np.ndarray:
        """Spikes of the last layer [B, n]; ends the process."""
        self._say("")
        if self.child.wait() != 0:
            raise SystemExit("slayer failed.")
        counts = np.load(self.job.with_suffix(".counts.npy"))
        self.folder.cleanup()
        return counts.astype(np.int64)

    def _say(self, line: str) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()

    def _answer(self, until: str = "") -> str:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            if line.strip() and (not until or line.strip() == until):
                return line
        raise SystemExit("slayer failed.")


class Engines:
    """The engines of one network, and what they are fed."""

    def __init__(self, program: Program, frames: np.ndarray, options: Options) -> None:
        self.frames, self.few = frames, frames[:, : options.lava_samples]
        self.models = {spec: deploy(program, spec) for spec in ("loihi", "torch")}
        self.layered = lower(program, "integer")
        self.lava = {
            "Lava's models in one process": JobOptions("models"),
            "Lava's models, convolutions as matrices": JobOptions("models", matrices=True),
            "Lava's runtime": JobOptions("runtime"),
        }
        if not any(c.kind == "conv" for layer in self.layered.layers for c in layer.connections):
            del self.lava["Lava's models, convolutions as matrices"]
        python = os.environ.get("RSC_LAVA_DL_PYTHON")
        some = frames[:, : options.slayer_samples]
        self.slayer = Slayer(python, self.layered, some, options.threads) if python else None
        self.last: np.ndarray = np.empty(0)

    def round(self) -> dict[str, tuple[float, float]]:
        """Engine -> milliseconds per sample, of wall and of CPU time."""
        found: dict[str, tuple[float, float]] = {}
        counts = {}

        def note(name: str, samples: int, wall: float, cpu: float) -> None:
            found[name] = 1e3 * wall / samples, 1e3 * cpu / samples

        for name, model in self.models.items():
            start, cpu = time.perf_counter(), time.process_time()
            counts[name] = model.run_frames(self.frames, Probe()).spikes.counts
            note(name, self.frames.shape[1], time.perf_counter() - start, time.process_time() - cpu)
        for name, options in self.lava.items():
            records = _lava(self.layered, self.few, options)
            for layer in self.layered.layers:
                expected = counts["loihi"][layer.name][: self.few.shape[1]]
                if not np.array_equal(records[f"{layer.name}.counts"], expected):
                    raise SystemExit(f"{name} counts other spikes in {layer.name}.")
            note(name, self.few.shape[1], float(records["seconds"]), math.nan)
        if self.slayer is not None:
            note("lava-dl's slayer", self.slayer.samples, *self.slayer.seconds())
        self.last = counts["loihi"][self.layered.layers[-1].name]
        return found

    def close(self) -> None:
        """End slayer; its last layer must have spiked as ours."""
        if self.slayer is not None:
            counts = self.slayer.counts()
            if not np.array_equal(counts, self.last[: len(counts)]):
                raise SystemExit("slayer counts other spikes in the last layer.")


def _lava(layered: LayeredProgram, frames: np.ndarray, options: JobOptions) -> dict[str, np.ndarray]:
    status = lava_env.status()
    payloads = {s.name: s.payload(frames, "integer") for s in layered.inputs}
    return execute(str(status.python), layered, payloads, Recording(), options)


def _medians(rounds: list[dict[str, tuple[float, float]]]) -> dict[str, dict[str, float]]:
    """Engine -> medians of its times, and of their ratios to `loihi` within a round."""
    found = {}
    for engine in rounds[0]:
        ratios = [np.divide(r[engine], r["loihi"]) for r in rounds]
        found[engine] = {
            "ms": statistics.median(r[engine][0] for r in rounds),
            "ratio": statistics.median(float(wall) for wall, _ in ratios),
            "cpu_ms": statistics.median(r[engine][1] for r in rounds),
            "cpu_ratio": statistics.median(float(cpu) for _, cpu in ratios),
        }
    return found


def main(options: Options) -> None:
    """Measure every network and print a table."""
    missing = LavaTarget().available()
    if missing is not None:
        sys.exit(f"Lava is not here: {missing.reason} {missing.fix}")
    torch.set_num_threads(options.threads)
    results = {}
    for name, (build, steps) in NETWORKS.items():
        if name[0] not in options.networks:
            continue
        rng = np.random.default_rng(0)
        program = build(rng)
        frames = (rng.random((steps, options.batch, *program.input_shape)) < 0.1).astype(np.float32)
        engines = Engines(program, frames, options)
        engines.round()  # the first run of each is slower
        rounds = [engines.round() for _ in range(options.rounds)]
        engines.close()
        results[name] = _medians(rounds)
    if "RSC_LAVA_DL_PYTHON" not in os.environ:
        print("slayer is left out: RSC_LAVA_DL_PYTHON names no Python 3.10 with lava-dl.", file=sys.stderr)
    if options.json:
        print(json.dumps(results, indent=1))
        return
    for name, medians in results.items():
        print(f"\n{name}, T = {NETWORKS[name][1]}, per sample (batch {options.batch})")
        print(f"  {'':42s} {'ms':>10s} {'ratio':>9s} {'CPU ms':>10s} {'ratio':>9s}")
        for engine, found in medians.items():
            numbers = [found[key] for key in ("ms", "ratio", "cpu_ms", "cpu_ratio")]
            print(f"  {engine:42s} {'{:10.3f} {:9.2f} {:10.3f} {:9.2f}'.format(*numbers)}")


if __name__ == "__main__":
    main(tyro.cli(Options))
