"""What counting operations costs, next to SpikingJelly and NeuroBench, on the same layer and the same events.

python benchmarks/energy.py [--rounds 7] [--frames 64] [--every] [--json]

Rounds are interleaved: each runs everything once, so load hits all alike. Seconds are those of the processor
(one thread), which other programs disturb less than the clock; the table gives their medians, and the median
over the rounds of what counting adds to the forward pass of its round.
The first rows are one convolution (64 to 128 channels, 3 x 3, 32 x 32), each counter on top of its forward
pass; the last ones a whole network on the target `torch`, where counting means the spike counts that the
target keeps, their transfer, and everything that becomes of them. NeuroBench runs if it is installed.
`--every` adds networks that are dear to count: with many zero weights, hardly any events, groups of channels.
Give OMP_NUM_THREADS=1 for figures of one thread.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import json
import statistics
import time
from collections.abc import Callable

import nir
import numpy as np
import torch
import tyro

from rsc import Probe, deploy
from rsc.energy import count
from rsc.energy.edges import SPIKING, open_net
from rsc.program import Program, Semantics

RATE = 0.1


@dataclasses.dataclass
class Options:
    """What is timed."""

    rounds: int = 7
    frames: int = 64
    steps: int = 8
    batch: int = 16
    every: bool = False
    json: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """One way of counting: what it found, its median seconds, and what it adds to a forward pass."""

    what: str
    found: str
    seconds: float
    of_forward: float


@dataclasses.dataclass(frozen=True)
class Case:
    """A network of four convolutions: share of zero weights, gain of its neurons, groups of channels."""

    what: str
    zeros: float
    gain: float = 8.0
    groups: int = 1


CASES = (Case("10 % zero weights", 0.1), Case("no zero weights", 0.0))
HARD = (
    Case("50 % zero weights", 0.5),
    Case("90 % zero weights", 0.9),
    Case("99 % zero weights", 0.99),
    Case("few events", 0.1, gain=4.0),
    Case("hardly any events", 0.1, gain=3.0),
    Case("depthwise", 0.1, groups=16),
    Case("two groups", 0.1, groups=2),
)


def conv(
    c_in: int, c_out: int, size: int, rng: np.random.Generator, zeros: float = 0.1, groups: int = 1
) -> nir.Conv2d:
    w = rng.normal(0, 1 / np.sqrt(9 * c_in / groups), (c_out, c_in // groups, 3, 3)).astype(np.float32)
    w[rng.random(w.shape) < zeros] = 0
    w /= np.sqrt(max(1 - zeros, 1e-3))
    return nir.Conv2d((size, size), w, 1, 1, 1, groups, np.zeros(c_out, np.float32))


def one_layer() -> Program:
    nodes = {
        "input": nir.Input({"input": np.array([64, 32, 32])}),
        "conv": conv(64, 128, 32, np.random.default_rng(0)),
        "output": nir.Output({"output": np.array([128, 32, 32])}),
    }
    return Program(nir.NIRGraph(nodes, list(itertools.pairwise(nodes)), type_check=False), Semantics(1e-3))


def network(case: Case) -> Program:
    """Four convolutions with LIF neurons, 16 x 16."""
    rng, channels = np.random.default_rng(1), (16, 64, 64, 64, 64)
    nodes: dict[str, nir.NIRNode] = {"input": nir.Input({"input": np.array([16, 16, 16])})}
    for k, (a, b) in enumerate(itertools.pairwise(channels)):
        one = np.ones((b, 16, 16), np.float32)
        groups = a if case.groups == 16 else case.groups
        nodes[f"conv{k}"] = conv(a, b, 16, rng, case.zeros, groups)
        nodes[f"lif{k}"] = nir.LIF(tau=2e-3 * one, r=case.gain * one, v_leak=0 * one, v_threshold=one)
    nodes["output"] = nir.Output({"output": np.array([64, 16, 16])})
    return Program(nir.NIRGraph(nodes, list(itertools.pairwise(nodes)), type_check=False), Semantics(1e-3))


def counters(options: Options) -> dict[str, Callable[[], object]]:
    """The layer alone and under every counter; each call returns what it counted."""
    net = one_layer()
    layer = torch.nn.Conv2d(64, 128, 3, padding=1)
    layer.weight.data = torch.from_numpy(np.array(net.graph.nodes["conv"].weight))  # type: ignore[attr-defined]
    rng = np.random.default_rng(2)
    x = torch.from_numpy((rng.random((options.frames, 64, 32, 32)) < RATE).astype(np.float32))

    def forward() -> str:
        with torch.no_grad():
            layer(x)
        return ""

    def ours(cold: bool) -> str:
        if cold:
            open_net.cache_clear()
        forward()
        spikes = x.sum(0, dtype=torch.float32).to(torch.int64)[None].numpy()  # what a target hands over
        found = count(net, _record(spikes), options.frames, input_events=True)["conv"]
        return f"{int(found.per_pass('sop')[0])} / {int(found.per_pass('sop_nz')[0])}"

    ways: dict[str, Callable[[], object]] = {
        "forward pass": forward,
        "rsc, sop / sop_nz": lambda: ours(False),
        "rsc, maps made anew": lambda: ours(True),
    }
    return ways | _peers(layer, x, forward)


def _record(counts: np.ndarray):
    from rsc.results import SpikeRecord

    return SpikeRecord({"input": counts})


def _peers(layer: torch.nn.Module, x: torch.Tensor, forward: Callable[[], object]) -> dict[str, Callable]:
    found: dict[str, Callable[[], object]] = {}
    try:
        package = importlib.import_module("spikingjelly.activation_based.op_counter")
        base = importlib.import_module("spikingjelly.activation_based.op_counter.base")

        def jelly() -> str:
            made = package.SynOpCounter()
            with torch.no_grad(), base.DispatchCounterMode([made]):
                layer(x)
            return str(made.get_total())

        found["SpikingJelly SynOpCounter, sop"] = jelly
    except ImportError:
        pass
    for module in (
        "neurobench.metrics.utils.layers",
        "neurobench.metrics.utils",
        "neurobench.benchmarks.utils",
    ):
        try:
            macs = importlib.import_module(module).single_layer_MACs
        except (ImportError, AttributeError):
            continue

        def bench(macs: Callable = macs) -> str:
            forward()
            with torch.no_grad():
                return str(macs(x, layer)[0])

        found["NeuroBench, sop_nz"] = bench
        break
    return found


def whole_network(options: Options, case: Case) -> dict[str, Callable[[], object]]:
    """The target `torch` without counts, with counts, and with rasters too."""
    net = network(case)
    rng = np.random.default_rng(3)
    frames = (rng.random((options.steps, options.batch, 16, 16, 16)) < RATE).astype(np.float32)
    model = deploy(net, "torch")
    spiking = frozenset(n for n, node in open_net(net).nodes.items() if isinstance(node, SPIKING))

    def counted(probe: Probe) -> str:
        result = model.run_frames(frames, probe)
        made = count(net, result.spikes, options.steps, input_events=True)
        return str(sum(int(n.per_pass("sop").sum()) for n in made.nodes))

    return {
        f"network, {case.what}": lambda: (model.run_frames(frames, Probe(counts=False)), "")[1],
        "  counts": lambda: counted(Probe()),
        "  counts and touched neurons": lambda: counted(Probe(spikes=spiking | {"input"}, counts=False)),
    }


def timed(ways: dict[str, Callable[[], object]], rounds: int) -> list[Row]:
    found = {name: str(way()) for name, way in ways.items()}  # and warm up
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.process_time()
            way()
            seconds[name].append(time.process_time() - start)
    plain = seconds[next(iter(ways))]
    added = {
        n: statistics.median(t / p - 1 for t, p in zip(s, plain, strict=True)) for n, s in seconds.items()
    }
    return [Row(name, found[name], statistics.median(s), added[name]) for name, s in seconds.items()]


def main(options: Options) -> None:
    torch.set_num_threads(1)
    rows = timed(counters(options), options.rounds)
    for case in CASES + (HARD if options.every else ()):
        rows += timed(whole_network(options, case), options.rounds)
    if options.json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
        return
    print(f"{'':42} {'counted':>24} {'seconds':>9} {'on top':>8}")
    for row in rows:
        print(f"{row.what:42} {row.found:>24} {row.seconds:9.4f} {row.of_forward:8.1%}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
