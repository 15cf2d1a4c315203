"""Time of NIR files in our torch target and in other simulators' importers, in one process.

python benchmarks/nir_runtime.py [--rounds 15] [--threads 2] [--only mlp ...] [--json]

Needs the `peers` extra. Every network is written to a NIR file once and read by every tool's own importer
(tests/peers); nirtorch brings no neurons, it gets plain Euler ones. Rounds are interleaved: each runs all
tools once, so a change of load hits all alike. The table gives medians, and how many times as long a tool
takes as ours. A tool that cannot run a file, or gives other spikes, is listed with the reason; Sinabs has
another neuron (exponential decay, several spikes per step), so only its time is comparable.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import nir
import numpy as np
import torch
import tyro
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from peers import PEERS, peer
from peers.target import silent

from rsc.export.reader import read_program
from rsc.hw_targets import deploy
from rsc.hw_targets.torch import TorchModel
from rsc.program import Program, Semantics

DT = 1e-3
OURS = "rsc torch"


@dataclasses.dataclass(frozen=True)
class Row:
    """A network, a batch size and a number of steps; `rate` of the input spikes, None for noisy images."""

    name: str
    build: Callable[[np.random.Generator], nir.NIRGraph]
    batch: int
    steps: int
    rate: float | None


def lif(*shape: int, tau: float = 20, threshold: float = 0.1) -> nir.LIF:
    """r 1 as Norse takes it; tau in steps."""
    one: Any = np.ones(shape, np.float32)
    return nir.LIF(tau * DT * one, one, 0 * one, threshold * one, 0 * one)


def chain(shape: tuple[int, ...], out: tuple[int, ...], **nodes: Any) -> nir.NIRGraph:
    """input -> nodes -> output."""
    ends = {"input": nir.Input({"input": np.array(shape)}), **nodes}
    ends["output"] = nir.Output({"output": np.array(out)})
    return nir.NIRGraph(ends, list(pairwise(ends)), type_check=False)


def matrix(rng: np.random.Generator, n: int, m: int, gain: float) -> nir.Affine:
    """Random weights, no bias."""
    return nir.Affine((rng.normal(size=(m, n)) * gain / n**0.5).astype(np.float32), np.zeros(m, np.float32))


def mlp(rng: np.random.Generator) -> nir.NIRGraph:
    """784-256-10."""
    layers = {"a": matrix(rng, 784, 256, 1.5), "b": lif(256), "c": matrix(rng, 256, 10, 3.0), "d": lif(10)}
    return chain((784,), (10,), **layers)


def recurrent(rng: np.random.Generator) -> nir.NIRGraph:
    """128-256-10 with 256 x 256 recurrent weights in a graph of its own, as snnTorch and Norse write it."""
    inner = chain((256,), (256,), lif=lif(256))
    inner.nodes["w_rec"] = matrix(rng, 256, 256, 1.0)
    inner.edges += [("lif", "w_rec"), ("w_rec", "lif")]
    inner = nir.NIRGraph(inner.nodes, inner.edges)
    return chain((128,), (10,), a=matrix(rng, 128, 256, 1.5), b=inner, c=matrix(rng, 256, 10, 3.0), d=lif(10))


def conv(rng: np.random.Generator) -> nir.NIRGraph:
    """Two blocks of two 3 x 3 convolutions with 64 and 128 channels and a sum pooling, then 8192-10.

    v = v/2 + x/2 against a threshold of 1/2; the gains let 6 to 8 % of the hidden neurons fire in a step.
    """

    def cells(*shape: int) -> nir.LIF:
        return lif(*shape, tau=2, threshold=0.5)

    def block(n: int, m: int, size: int, gain: float) -> nir.Conv2d:
        weight = (rng.normal(size=(m, n, 3, 3)) * gain / (9 * n) ** 0.5).astype(np.float32)
        return nir.Conv2d((size, size), weight, 1, 1, 1, 1, np.zeros(m, np.float32))

    two: Any = np.array([2, 2])
    pool = nir.SumPool2d(two, two, np.array([0, 0]))
    layers = {
        "a": block(3, 64, 32, 0.75),
        "b": cells(64, 32, 32),
        "c": block(64, 64, 32, 2.6),
        "d": cells(64, 32, 32),
        "e": pool,
        "f": block(64, 128, 16, 0.65),
        "g": cells(128, 16, 16),
        "h": block(128, 128, 16, 2.7),
        "i": cells(128, 16, 16),
        "j": pool,
        "k": nir.Flatten({"input": np.array([128, 8, 8])}, -3, -1),
        "l": matrix(rng, 8192, 10, 0.25),
        "m": lif(10, tau=2, threshold=0.02),
    }
    return chain((3, 32, 32), (10,), **layers)


ROWS = (
    Row("mlp 784-256-10, batch 1", mlp, 1, 100, 0.1),
    Row("mlp 784-256-10, batch 512", mlp, 512, 100, 0.1),
    Row("recurrent 128-256-10, batch 1", recurrent, 1, 100, 0.1),
    Row("recurrent 128-256-10, batch 512", recurrent, 512, 100, 0.1),
    Row("conv 3-64-64-128-128, batch 32", conv, 32, 8, None),
)


@dataclasses.dataclass
class Options:
    """What is timed."""

    rounds: int = 15
    threads: int = 2
    only: Annotated[tuple[str, ...], tyro.conf.arg(help="rows whose name begins so")] = ()
    json: bool = False


@dataclasses.dataclass
class Result:
    """Of one row: tool -> milliseconds per round, or why there are none; share of differing outputs.

    `rates`: neuron node -> spikes per neuron and step in ours, to show that the network is alive.
    """

    row: str
    ms: dict[str, list[float]]
    missing: dict[str, str]
    differing: dict[str, float]
    rates: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def medians(self) -> dict[str, float]:
        """Tool -> median in ms."""
        return {tool: statistics.median(times) for tool, times in self.ms.items()}


def frames(row: Row, graph: nir.NIRGraph, rng: np.random.Generator) -> Tensor:
    """Spikes, or one image per sample with fresh noise at every step."""
    shape = tuple(int(d) for d in graph.nodes["input"].input_type["input"])
    size = (row.steps, row.batch, *shape)
    if row.rate is not None:
        return torch.from_numpy((rng.random(size) < row.rate).astype(np.float32))
    noisy = rng.random(size[1:]) + 0.25 * rng.normal(size=size)
    return torch.from_numpy(noisy.astype(np.float32))


def networks(path: Path) -> tuple[dict[str, Callable[[Tensor], Tensor]], dict[str, str]]:
    """Tool -> its network of a file, and tool -> why there is none."""
    program = read_program(path, semantics=Semantics(DT))
    model = deploy(program, "torch")
    assert isinstance(model, TorchModel)
    found: dict[str, Callable[[Tensor], Tensor]] = {OURS: model.module}
    missing = {}
    for name in PEERS:
        target = peer(name)
        absent = target.available()
        if absent is not None:
            missing[name] = absent.reason
            continue
        try:
            found[target.title] = target.load(nir.read(path, type_check=False), DT)
        except Exception as error:
            missing[target.title] = f"{type(error).__name__}: {error}"[:100]
    return found, missing


def rates(graph: nir.NIRGraph, x: Tensor) -> dict[str, float]:
    """Spikes per neuron and step of each population."""
    counts = deploy(Program(graph, Semantics(DT)), "torch").run_frames(x.numpy()).spikes.counts
    return {name: float(count.mean() / len(x)) for name, count in counts.items() if name != "input"}


def measure(row: Row, rounds: int) -> Result:
    """Time one row."""
    rng = np.random.default_rng(0)
    graph = row.build(rng)
    x = frames(row, graph, rng)
    with TemporaryDirectory() as folder:
        nir.write(Path(folder) / "net.nir", graph)
        tools, missing = networks(Path(folder) / "net.nir")
    result = Result(row.name, {}, missing, {}, rates(graph, x))
    expected = tools[OURS](x)
    for tool, network in list(tools.items()):
        try:
            found = network(x)
            result.differing[tool] = float((found != expected).float().mean())
            result.ms[tool] = []
        except Exception as error:
            missing[tool] = f"{type(error).__name__}: {error}"[:100]
    for _ in range(rounds):
        for tool, times in result.ms.items():
            start = time.perf_counter()
            tools[tool](x)
            times.append(1000 * (time.perf_counter() - start))
    return result


def main(options: Options) -> None:
    """Time and print."""
    torch.set_num_threads(options.threads)
    rows = [r for r in ROWS if not options.only or r.name.startswith(options.only)]
    results = []
    for row in rows:
        with torch.inference_mode():
            results.append(measure(row, options.rounds))
        if not options.json:
            show(results[-1])
    if options.json:
        print(json.dumps([dataclasses.asdict(result) for result in results], indent=2))


def show(result: Result) -> None:
    """One row as a table."""
    alive = ", ".join(f"{name} {rate:.1%}" for name, rate in sorted(result.rates.items()))
    print(f"\n{result.row} (spikes per neuron and step: {alive})")
    print(f"{'tool':24}{'median ms':>12}{'times ours':>12}{'outputs that differ':>22}")
    ours = result.medians[OURS]
    for tool, value in sorted(result.medians.items(), key=lambda item: item[1]):
        print(f"{tool:24}{value:12.2f}{value / ours:12.2f}{result.differing[tool]:22.2%}")
    for tool, reason in result.missing.items():
        print(f"{tool:24} not run: {reason}")


if __name__ == "__main__":
    with silent():
        pass
    main(tyro.cli(Options))
