"""Whatever fails under the Lava target, worker, runtime or result, ends as a TargetFault."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lava_networks import dense_chain, lif, program, tiny

from rsc.errors import TargetFault, UnsupportedNode
from rsc.hw_targets import isolate, lava_env, lava_job, lava_layout
from rsc.hw_targets.lava import LavaModel, LavaTarget
from rsc.layered import Connection
from rsc.results import Probe

STATUS = lava_env.status()
needs_lava = pytest.mark.skipif(not STATUS.available, reason=f"{STATUS.reason} {STATUS.fix}")
ONES = {"x": np.ones((2, 1, 1), np.int32)}


def worker_doing(fault: str, tmp_path: Path) -> Path:
    """A worker script that behaves as the fake worker's `fault`."""
    script = tmp_path / "worker.py"
    tests = str(Path(__file__).parent)
    script.write_text(
        f"import sys\nsys.path.insert(0, {tests!r})\nimport fake_worker\nfake_worker.{fault}(sys.argv[2])\n"
    )
    return script


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("half_result", "cannot be right"),
        ("no_result", "cannot be right"),
        ("status", "on fire"),
        ("crash", "SIGSEGV"),
    ],
)
def test_a_failing_worker_is_a_target_fault(
    fault: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lava_job, "WORKER", worker_doing(fault, tmp_path))
    with pytest.raises(TargetFault, match=words):
        lava_job.execute(sys.executable, tiny(), ONES, lava_job.Recording(), lava_job.JobOptions())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"0.counts": np.full((1, 1), 3, np.int64)}, "counts 3 spikes in 2 steps"),
        ({"0.counts": np.zeros((2, 1), np.int64)}, "missing or not"),
        ({"0.counts": np.zeros((1, 1))}, "missing or not"),
        ({"0.v": np.full((2, 1, 1), 1 << 23, np.int32)}, "leaves 24 bits"),
    ],
)
def test_an_impossible_result_is_refused(changes: dict[str, np.ndarray], words: str, tmp_path: Path):
    recording = lava_job.Recording(states=(("lif", ("v",)),))
    header, _ = lava_job.plan(tiny(), ONES, recording, lava_job.JobOptions())
    good = {
        "0.saturated": np.int64(0),
        "0.counts": np.ones((1, 1), np.int64),
        "0.v": np.ones((2, 1, 1), np.int32),
    }
    np.savez(tmp_path / "result.npz", **(good | changes))  # type: ignore[arg-type]
    with pytest.raises(TargetFault, match=words):
        lava_job._read(tmp_path / "result.npz", header)


@needs_lava
@pytest.mark.lava
def test_a_process_model_that_raises_does_not_hang_the_runtime(monkeypatch: pytest.MonkeyPatch):
    """Lava waits for ever when a child raises; here a shift by half a bit does."""
    build = lava_layout.synapses

    def broken(*arguments: Any) -> lava_layout.Synapses:
        made = build(*arguments)
        return dataclasses.replace(made, fields=made.fields | {"weight_exp": 0.5})

    seen: set[str] = set()
    end = isolate._end

    def remember(child: Any, watched: Any) -> None:
        seen.update(watched.segments)
        end(child, watched)

    monkeypatch.setattr(isolate, "_end", remember)
    with LavaTarget("runtime").deploy(tiny()) as model:
        monkeypatch.setattr(lava_layout, "synapses", broken)
        with pytest.raises(TargetFault, match=r"process model failed.*left_shift"):
            model._steps({"x": np.ones((3, 1, 1), np.float32)}, Probe())
    assert not [name for name in seen if Path("/dev/shm", name).exists()]


@needs_lava
@pytest.mark.lava
def test_a_budget_that_is_too_small_ends_the_run():
    rng = np.random.default_rng(6)
    frames = (rng.random((40, 64, 6)) < 0.4).astype(np.float32)
    target = LavaTarget("runtime", wall_s=0.2)
    with target.deploy(dense_chain(rng)) as model, pytest.raises(TargetFault, match="ran out of time"):
        model._steps({"x": frames}, Probe())


@needs_lava
def test_what_lava_cannot_run_is_refused_when_deployed():
    c = Connection("x", "dense", np.array([[3, -2]], np.int32), (2,))
    with pytest.raises(UnsupportedNode, match="even"):
        LavaModel.from_layered(program(lif("lif", (1,), c), shape=(2,)))
