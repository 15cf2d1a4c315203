"""lava-dl's slayer on a network of `benchmarks/loihi.py`: the child process that it starts.

RSC_LAVA_DL_PYTHON benchmarks/loihi_slayer.py JOB.npz THREADS

Runs in an environment of its own (Python 3.10 with lava-dl), so it imports nothing of ours. The blocks are
slayer's CUBA LIF ones with our integers: weights, decays and threshold over slayer's scale 64, no delay
between blocks. For every line read it runs the frames once and answers with seconds; at first it answers
"ready", at the end (an empty line) it writes the counts of the last layer to the job's folder.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lava.lib.dl import slayer  # pyright: ignore[reportMissingImports]

SCALE = 64


def block(layer: dict[str, Any], weight: np.ndarray) -> torch.nn.Module:
    """One connection and its neurons."""
    neuron = {
        "threshold": layer["vth"] / SCALE,
        "current_decay": (layer["du"] + 1) / 4096,
        "voltage_decay": layer["dv"] / 4096,
        "scale": SCALE,
    }
    common = {"weight_norm": False, "delay": False, "delay_shift": False}
    if layer["kind"] == "dense":
        made = slayer.block.cuba.Dense(neuron, weight.shape[1], weight.shape[0], **common)
    else:
        made = slayer.block.cuba.Conv(
            neuron,
            weight.shape[1],
            weight.shape[0],
            weight.shape[2],
            stride=layer["stride"][0],
            padding=layer["padding"][0],
            **common,
        )
    made.synapse.weight.data = torch.from_numpy(weight / SCALE).float().reshape(made.synapse.weight.shape)
    return made


def main(job: Path, threads: int) -> None:
    """Answer lines until an empty one."""
    torch.set_num_threads(threads)
    data = np.load(job)
    layers = json.loads(data["layers"].tobytes())
    blocks = [block(layer, data[f"weight{i}"]) for i, layer in enumerate(layers)]
    x = torch.from_numpy(np.moveaxis(data["frames"], 0, -1).copy())  # [B, ..., T]
    answer = sys.stdout
    print("ready", file=answer, flush=True)
    s = x
    while sys.stdin.readline().strip():
        s = x
        start, cpu = time.perf_counter(), time.process_time()
        with torch.no_grad():
            for layer, made in zip(layers, blocks, strict=True):
                if layer["kind"] == "dense":
                    s = s.flatten(1, -2)
                s = made(s)
        print(time.perf_counter() - start, time.process_time() - cpu, file=answer, flush=True)
    np.save(job.with_suffix(".counts.npy"), s.sum(-1).numpy())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
