"""Time of a program in ONNX Runtime against our torch target and other simulators.

python benchmarks/onnx_runtime.py [--rounds 15] [--threads 2] [--only mlp ...] [--peers] [--compiled] [--json]

The networks are those of nir_runtime.py, and convolutions at batch 1 and 512. Every row runs in a process of
its own that is ended after --limit seconds. Rounds are interleaved: each runs all tools once, so a change of
load hits all alike. The table gives medians of wall and CPU time, how many times as long a tool takes as the
float32 model in ONNX Runtime, and the share of outputs that differ from it. --compiled adds tables of the
torch target under torch.compile, each in one more process, as it takes minutes to unroll a hundred steps.

The name is not onnx.py: Python puts the folder of a script first on its path, where it would hide onnx.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
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

import nir_runtime
from nir_runtime import DT, OURS, Row, chain, conv, frames, lif, matrix, networks

from rsc.errors import unknown_name
from rsc.export.onnx import Arithmetic, OnnxForm, to_onnx
from rsc.hw_targets import get_target
from rsc.hw_targets.onnxruntime_session import Runtime
from rsc.program import Program, Semantics, walk

MODELS: tuple[Arithmetic, ...] = ("float32", "float16", "bfloat16", "integer")
FIRST = "ONNX Runtime, float32"
Tool = Callable[[], np.ndarray]


def small_conv(rng: np.random.Generator) -> nir.NIRGraph:
    """Digits: two 3 x 3 convolutions with 16 and 32 channels, each with a sum pooling, then 128-10."""

    def block(n: int, m: int, size: int, gain: float) -> nir.Conv2d:
        weight = (rng.normal(size=(m, n, 3, 3)) * gain / (9 * n) ** 0.5).astype(np.float32)
        return nir.Conv2d((size, size), weight, 1, 1, 1, 1, np.zeros(m, np.float32))

    two: Any = np.array([2, 2])
    pool = nir.SumPool2d(two, two, 0 * two)
    layers = {
        "a": block(1, 16, 8, 1.5),
        "b": lif(16, 8, 8, tau=2, threshold=0.5),
        "c": pool,
        "d": block(16, 32, 4, 1.0),
        "e": lif(32, 4, 4, tau=2, threshold=0.5),
        "f": pool,
        "g": nir.Flatten({"input": np.array([32, 2, 2])}, -3, -1),
        "h": matrix(rng, 128, 10, 0.5),
        "i": lif(10, tau=2, threshold=0.1),
    }
    return chain((1, 8, 8), (10,), **layers)


ROWS = (
    *nir_runtime.ROWS,
    Row("conv 3-64-64-128-128, batch 1", conv, 1, 8, None),
    Row("small conv 1-16-32, batch 1", small_conv, 1, 8, None),
    Row("small conv 1-16-32, batch 512", small_conv, 512, 8, None),
)


@dataclasses.dataclass
class Options:
    """What is timed."""

    rounds: int = 15
    threads: int = 2
    only: Annotated[tuple[str, ...], tyro.conf.arg(help="rows whose name begins so")] = ()
    peers: bool = False
    compiled: bool = False
    limit: Annotated[float, tyro.conf.arg(help="seconds that one table may take")] = 900.0
    json: bool = False
    child: Annotated[str, tyro.conf.arg(help="measure this row in this process")] = ""


@dataclasses.dataclass
class Result:
    """Of one row: tool -> milliseconds per round, share of outputs that differ, or why there are none.

    `size`: bytes of the float32 file over those of the weights.
    """

    row: str
    size: float = 0.0
    wall: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    cpu: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    differing: dict[str, float] = dataclasses.field(default_factory=dict)
    missing: dict[str, str] = dataclasses.field(default_factory=dict)


def onnx_tools(program: Program, x: np.ndarray, options: Options) -> tuple[dict[str, Tool], dict[str, str]]:
    """The program's models, each with a session; and why some are missing."""
    found, missing = {}, {}
    for arithmetic in MODELS[:1] if options.compiled else MODELS:
        errors = [i for i in get_target(f"onnxruntime:{arithmetic}").check(program) if i.severity == "error"]
        if errors:
            missing[f"ONNX Runtime, {arithmetic}"] = errors[0].what
            continue
        model = to_onnx(program, OnnxForm(arithmetic, outputs=True)).SerializeToString()
        session = Runtime(threads=options.threads).session(model)

        def run(session: Any = session) -> np.ndarray:
            return session.run(["outputs.output"], {"frames.input": x})[0]

        found[f"ONNX Runtime, {arithmetic}"] = run
    return found, missing


def torch_tools(
    graph: nir.NIRGraph, x: np.ndarray, options: Options
) -> tuple[dict[str, Tool], dict[str, str]]:
    """The torch target, and the importers of other simulators or why they are missing."""
    with TemporaryDirectory() as folder:
        nir.write(Path(folder) / "net.nir", graph)
        tools, missing = networks(Path(folder) / "net.nir")
    tensor = torch.from_numpy(x)
    kept = {name: net for name, net in tools.items() if options.peers or name == OURS}
    if options.compiled:
        kept = {OURS: tools[OURS], f"{OURS}, compiled": torch.compile(tools[OURS])}
    found = {name: (lambda net=net: net(tensor).numpy()) for name, net in kept.items()}
    return found, missing if options.peers and not options.compiled else {}


def measure(row: Row, options: Options) -> Result:
    """Time one row in this process."""
    rng = np.random.default_rng(0)
    graph = row.build(rng)
    x = frames(row, graph, rng).numpy()
    program = Program(graph, Semantics(DT))
    weights = sum(4 * np.size(getattr(node, "weight", ())) for _, node in walk(graph))
    result = Result(row.name, to_onnx(program).ByteSize() / weights)
    tools, result.missing = onnx_tools(program, x, options)
    others, missing = torch_tools(graph, x, options)
    tools, result.missing = tools | others, result.missing | missing
    expected = tools[FIRST]()
    for tool, run in tools.items():
        try:
            result.differing[tool] = float((run() != expected).mean())
            result.wall[tool], result.cpu[tool] = [], []
        except Exception as error:
            result.missing[tool] = f"{type(error).__name__}: {error}"[:100]
    for _ in range(options.rounds):
        for tool, times in result.wall.items():
            start, busy = time.perf_counter(), time.process_time()
            tools[tool]()
            times.append(1000 * (time.perf_counter() - start))
            result.cpu[tool].append(1000 * (time.process_time() - busy))
    return result


def in_child(row: Row, options: Options, compiled: bool) -> Result:
    """Time one row in a process of its own."""
    words = ["--rounds", str(options.rounds), "--threads", str(options.threads), "--child", row.name]
    words += ["--peers"] if options.peers else []
    words += ["--compiled"] if compiled else []
    try:
        done = subprocess.run(
            [sys.executable, __file__, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=options.limit,
        )
    except subprocess.TimeoutExpired:
        return Result(row.name, missing={"all": f"no result after {options.limit:.0f} s"})
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return Result(row.name, missing={"all": lines[-1][:160]})
    return Result(**json.loads(done.stdout.strip().splitlines()[-1]))


def show(result: Result) -> None:
    """One row as a table."""
    print(f"\n{result.row}" + (f" (file of {result.size:.3f} times the weights)" if result.size else ""))
    if result.wall:
        print(f"{'tool':28}{'wall ms':>10}{'x ORT':>8}{'CPU ms':>10}{'x ORT':>8}{'outputs that differ':>22}")
    for tool in result.wall:
        line = f"{tool:28}"
        for times in (result.wall, result.cpu):
            middle = statistics.median(times[tool])
            line += f"{middle:10.2f}{middle / statistics.median(times[FIRST]):8.2f}"
        print(f"{line}{result.differing[tool]:22.3%}")
    for tool, why in result.missing.items():
        print(f"{tool:28} not run: {why}")


def main(options: Options) -> None:
    """Time and print."""
    if options.child:
        torch.set_num_threads(options.threads)
        row = next(r for r in ROWS if r.name == options.child)
        with torch.inference_mode():
            print(json.dumps(dataclasses.asdict(measure(row, options))))
        return
    for prefix in options.only:
        if not any(row.name.startswith(prefix) for row in ROWS):
            raise SystemExit(str(unknown_name("row", prefix, [row.name for row in ROWS])))
    results = []
    for row in (r for r in ROWS if not options.only or r.name.startswith(options.only)):
        for compiled in (False, True) if options.compiled else (False,):
            results.append(in_child(row, options, compiled))
            if not options.json:
                show(results[-1])
    if options.json:
        print(json.dumps([dataclasses.asdict(result) for result in results], indent=2))


if __name__ == "__main__":
    main(tyro.cli(Options))
