"""One variant of `train.py` in a process of its own: timed steps, peak memory and check value, as JSON.

python benchmarks/train_worker.py VARIANT conv|mlp train|infer STEPS THREADS
"""

from __future__ import annotations

import importlib.util
import json
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from train_networks import VARIANTS
from train_workloads import WORKLOADS, Workload


def resident() -> float:
    """Resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def stepper(workload: Workload, network: nn.Module, mode: str) -> Callable[[], float]:
    """One step; gives the sum of the logits, or the loss."""
    images, labels = workload.data()
    if mode == "infer":
        network.eval()

        def infer() -> float:
            with torch.inference_mode():
                return float(network(workload.frames(images)).sum())

        return infer
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1e-4)

    def train() -> float:
        frames = workload.frames(images)
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(network(frames), labels)
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return train


def first_gradient(network: nn.Module) -> float | None:
    """Norm of the gradient of the first layer's weight."""
    grad = next(p for p in network.parameters() if p.ndim > 1).grad
    return None if grad is None else float(grad.norm())


def measure(name: str, workload: Workload, mode: str, steps: int) -> dict[str, Any]:
    """Milliseconds of wall and CPU time per step, MB above the built network, and the first step's value."""
    variant = VARIANTS[name]
    if variant.keeps_memory:
        from rsc.allocator import keep_freed_memory

        keep_freed_memory()
    network = variant.build(workload, variant)
    if variant.channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    step = stepper(workload, network, mode)
    before = resident()
    torch.manual_seed(5)
    value = step()
    gradient = first_gradient(network)
    for _ in range(workload.warm - 1):
        step()
    wall, cpu = [], []
    for _ in range(steps):
        start, busy = time.perf_counter(), time.process_time()
        step()
        wall.append(1000 * (time.perf_counter() - start))
        cpu.append(1000 * (time.process_time() - busy))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    return {"value": value, "gradient": gradient, "wall": wall, "cpu": cpu, "peak": peak}


def main(name: str, workload: str, mode: str, steps: str, threads: str) -> None:
    """Print the measurement, or why there is none."""
    tool = VARIANTS[name].tool
    if importlib.util.find_spec(tool) is None:
        print(json.dumps({"missing": f"{tool} is not installed"}))
        return
    torch.set_num_threads(int(threads))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = measure(name, WORKLOADS[workload], mode, int(steps))
    print("\n" + json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
