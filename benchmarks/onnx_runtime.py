"""Time of a program in ONNX Runtime against our torch target and other simulators, in one process.

python benchmarks/onnx_runtime.py [--rounds 15] [--threads 2] [--only mlp ...] [--peers] [--compiled] [--json]

The networks are those of nir_runtime.py. Rounds are interleaved: each runs all tools once, so a change of
load hits all alike. The table gives medians, how many times as long a tool takes as the float32 model in ONNX
Runtime, and the share of outputs that differ from it. --compiled adds the torch target under torch.compile,
which takes minutes to unroll a hundred steps.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import nir
import numpy as np
import torch
import tyro

sys.path.append(str(Path(__file__).resolve().parent))

from nir_runtime import DT, OURS, ROWS, Row, frames, networks

from rsc.export.onnx import Arithmetic, OnnxForm, to_onnx
from rsc.hw_targets import get_target
from rsc.hw_targets.onnxruntime_session import Runtime
from rsc.program import Program, Semantics, walk

MODELS: tuple[Arithmetic, ...] = ("float32", "float16", "bfloat16", "integer")
FIRST = "ONNX Runtime, float32"
Tool = Callable[[], np.ndarray]


@dataclasses.dataclass
class Options:
    """What is timed."""

    rounds: int = 15
    threads: int = 2
    only: Annotated[tuple[str, ...], tyro.conf.arg(help="rows whose name begins so")] = ()
    peers: bool = False
    compiled: bool = False
    json: bool = False


@dataclasses.dataclass
class Result:
    """Of one row: tool -> milliseconds per round, share of outputs that differ, or why there are none.

    `size`: bytes of the float32 file over those of the weights.
    """

    row: str
    size: float
    ms: dict[str, list[float]]
    differing: dict[str, float]
    missing: dict[str, str]


def onnx_tools(program: Program, x: np.ndarray, threads: int) -> dict[str, Tool]:
    """The program's models, each with a session."""
    found: dict[str, Tool] = {}
    for arithmetic in MODELS:
        if any(i.severity == "error" for i in get_target(f"onnxruntime:{arithmetic}").check(program)):
            continue
        model = to_onnx(program, OnnxForm(arithmetic, outputs=True)).SerializeToString()
        session = Runtime(threads=threads).session(model)

        def run(session: Any = session) -> np.ndarray:
            return session.run(["outputs.output"], {"frames.input": x})[0]

        found[f"ONNX Runtime, {arithmetic}"] = run
    return found


def torch_tools(
    graph: nir.NIRGraph, x: np.ndarray, options: Options
) -> tuple[dict[str, Tool], dict[str, str]]:
    """The torch target, and the importers of other simulators."""
    with TemporaryDirectory() as folder:
        nir.write(Path(folder) / "net.nir", graph)
        tools, missing = networks(Path(folder) / "net.nir")
    tensor = torch.from_numpy(x)
    kept = {name: net for name, net in tools.items() if options.peers or name == OURS}
    if options.compiled:
        kept[f"{OURS}, compiled"] = torch.compile(tools[OURS])
    return {name: (lambda net=net: net(tensor).numpy()) for name, net in kept.items()}, missing


def measure(row: Row, options: Options) -> Result:
    """Time one row."""
    rng = np.random.default_rng(0)
    graph = row.build(rng)
    x = frames(row, graph, rng).numpy()
    program = Program(graph, Semantics(DT))
    weights = sum(4 * np.size(getattr(node, "weight", ())) for _, node in walk(graph))
    size = to_onnx(program).ByteSize() / weights if weights else 0.0
    others, missing = torch_tools(graph, x, options)
    tools = onnx_tools(program, x, options.threads) | others
    result = Result(row.name, size, {}, {}, missing if options.peers else {})
    expected = tools[FIRST]()
    for tool, run in tools.items():
        try:
            result.differing[tool] = float((run() != expected).mean())
            result.ms[tool] = []
        except Exception as error:
            result.missing[tool] = f"{type(error).__name__}: {error}"[:100]
    for _ in range(options.rounds):
        for tool, times in result.ms.items():
            start = time.perf_counter()
            tools[tool]()
            times.append(1000 * (time.perf_counter() - start))
    return result


def show(result: Result) -> None:
    """One row as a table."""
    print(f"\n{result.row} (file of {result.size:.3f} times the weights)")
    print(f"{'tool':28}{'median ms':>12}{'times ORT':>12}{'outputs that differ':>22}")
    first = statistics.median(result.ms[FIRST])
    for tool, times in result.ms.items():
        middle = statistics.median(times)
        print(f"{tool:28}{middle:12.2f}{middle / first:12.2f}{result.differing[tool]:22.3%}")
    for tool, why in result.missing.items():
        print(f"{tool:28}{why}")


def main(options: Options) -> None:
    """Time and print."""
    torch.set_num_threads(options.threads)
    rows = [r for r in ROWS if not options.only or r.name.startswith(options.only)]
    results = []
    for row in rows:
        with torch.inference_mode():
            results.append(measure(row, options))
        if not options.json:
            show(results[-1])
    if options.json:
        print(json.dumps([dataclasses.asdict(result) for result in results], indent=2))


if __name__ == "__main__":
    main(tyro.cli(Options))
