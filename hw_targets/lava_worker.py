"""Runs one job on lava-nc under its own interpreter; knows the standard library, numpy and lava only.

    python -I lava_worker.py probe            versions as JSON on stdout
    python -I lava_worker.py run FOLDER       FOLDER/job.npz -> FOLDER/result.npz

A job is a network of layers in Lava's layout (W, H, C) and payloads [T, N, ...] of N samples, which are
run one after another as a single stream, a new sample every `period` steps. A layer of level k does
program step t of sample n in Lava time step n * period + t + 1 + k. Its neurons are cleared there at
t = 0, by `LIFReset` or, in a "gated" job, by `SampleLIF`, which is also silent outside of the steps of
its samples: so nothing of one sample reaches another, and biases act for exactly T steps. Results are
shifted back by k: entry (t, n) is what a layer did in program step t of sample n.
"""

import dataclasses
import functools
import importlib.util
import json
import os
import sys
import time
from pathlib import Path

import numpy as np


def load_lava():
    """Import lava-nc 0.10.0; on Python >= 3.11 or numpy >= 2.4 two of its lines need help.

    `var_model` gives a dataclass field a mutable default (refused since 3.11), and reshaping
    ports call `np.reshape(newshape=)` (gone in numpy 2.4).
    """
    original = dataclasses.dataclass

    def hashable(cls=None, /, **options):
        options.setdefault("unsafe_hash", True)
        return original(cls, **options) if cls is not None else (lambda c: original(c, **options))

    if needs_shim():
        dataclasses.dataclass = hashable
    try:
        importlib.import_module("lava.magma.compiler.var_model")
    finally:
        dataclasses.dataclass = original
    from lava.magma.core.process.ports.ports import ReshapePort

    ReshapePort.get_transform_func_fwd = lambda self: functools.partial(_reshape, shape=self.shape)
    ReshapePort.get_transform_func_bwd = lambda self: functools.partial(_reshape, shape=self.old_shape)


def needs_shim():
    """Whether this interpreter cannot import lava-nc 0.10.0 unmodified."""
    return sys.version_info >= (3, 11)


def _reshape(x, shape):
    return np.reshape(x, shape)


def probe():
    """Versions, and whether Intel's Loihi stack is installed."""
    from importlib.metadata import version

    load_lava()
    import lava.proc.lif.models  # noqa: F401  (proves that process models import)
    from lava.utils.loihi import is_installed

    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    found |= {name: version(name) for name in ("lava-nc", "numpy", "scipy")}
    return {"versions": found, "shim": needs_shim(), "loihi": bool(is_installed())}


class Records:
    """What a run leaves: per layer counts [N, ...], rasters, states [T, N, ...] and saturation."""

    def __init__(self, header):
        self.header, self.arrays = header, {}
        lead = (header["steps"], header["samples"])
        state = np.int32 if header["arithmetic"] == "integer" else np.float64
        for i, layer in enumerate(header["layers"]):
            shape = tuple(layer["shape"])
            self.arrays[f"{i}.saturated"] = np.zeros((), np.int64)
            if layer["counts"]:
                self.arrays[f"{i}.counts"] = np.zeros((lead[1], *shape), np.int64)
            if layer["raster"]:
                self.arrays[f"{i}.raster"] = np.zeros((*lead, *shape), bool)
            for name in layer["states"]:
                self.arrays[f"{i}.{name}"] = np.zeros((*lead, *shape), state)

    def add(self, i, where, spikes, states):
        """Note layer i at where = (t, n): spikes [...] and a dict of states."""
        layer, (t, n) = self.header["layers"][i], where
        fired = spikes != 0
        if layer["counts"]:
            self.arrays[f"{i}.counts"][n] += fired
        if layer["raster"]:
            self.arrays[f"{i}.raster"][t, n] = fired
        for name in layer["states"]:
            self.arrays[f"{i}.{name}"][t, n] = states[name]
        if self.header["arithmetic"] == "integer":
            hits = np.count_nonzero(np.abs(states["v"]) >= self.header["state_max"]) if "v" in states else 0
            self.arrays[f"{i}.saturated"] += hits + (np.count_nonzero(fired) if layer["readout"] else 0)


def run_models(network, records, run_config):
    """Engine "models": no Lava runtime, one process, ordinary exceptions."""
    executor = _beside("lava_executor.py").Executor(network.processes, run_config)
    neurons = [executor.models[p] for p in network.neurons]
    for step in range(network.total):
        executor.step()
        for i, (layer, model) in enumerate(zip(network.header["layers"], neurons, strict=True)):
            where = network.aligned(layer, step)
            if where is not None:
                records.add(i, where, model.s_out.buffer, {"u": model.u, "v": model.v})


def run_runtime(network, records, run_config, folder):
    """Engine "runtime": Lava's own runtime, one operating system process per Lava process."""
    from lava.magma.compiler.compiler_graphs import find_processes

    recorders = importlib.import_module("lava_processes.recorders")
    traces = {}

    def trace(i, name, shape, dtype):
        path = folder / f"trace.{i}.{name}.npy"
        traces[i, name] = np.lib.format.open_memmap(path, "w+", dtype, (network.total, *shape))
        return str(path)

    integer = network.header["arithmetic"] == "integer"
    for i, (layer, neuron) in enumerate(zip(network.header["layers"], network.neurons, strict=True)):
        shape = tuple(layer["shape"])
        if layer["counts"] or layer["raster"] or layer["readout"]:
            recorder = recorders.SpikeRecorder(shape=shape, path=trace(i, "s", shape, bool))
            neuron.s_out.connect(recorder.a_in)
        for name in layer["states"]:
            path = trace(i, name, shape, np.int32 if integer else np.float64)
            recorders.StateRecorder(shape=shape, path=path).state.connect_var(getattr(neuron, name))
    supervisor, left = _beside("lava_supervisor.py"), list(network.processes)
    deadline = time.monotonic() + network.header["timeout_s"]
    while left:  # Lava runs what is connected to one process
        supervisor.supervise(left[0], network.total, run_config, deadline - time.monotonic())
        done = find_processes(left[0])
        left = [process for process in left if process not in done]
    for i, layer in enumerate(network.header["layers"]):
        mine = {name: array for (k, name), array in traces.items() if k == i}
        silent = np.zeros(tuple(layer["shape"]), bool)
        for step in range(network.total):
            where = network.aligned(layer, step)
            if mine and where is not None:
                states = {name: array[step] for name, array in mine.items() if name != "s"}
                records.add(i, where, mine["s"][step] if "s" in mine else silent, states)


def _beside(name):
    """A module of this folder, loaded by path: its siblings must not become importable (one is `lava`)."""
    path = Path(__file__).resolve().parent / name
    package = path.is_dir()
    spec = importlib.util.spec_from_file_location(
        path.stem,
        path / "__init__.py" if package else path,
        submodule_search_locations=[str(path)] if package else None,
    )
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(folder):
    """Read the job, run it, write the result under its final name only when it is complete."""
    load_lava()
    from lava.magma.core import run_configs

    with np.load(folder / "job.npz", allow_pickle=False) as job:
        data = {name: job[name] for name in job.files}
    header = json.loads(data.pop("header").tobytes())
    tag = "fixed_pt" if header["arithmetic"] == "integer" else "floating_pt"
    run_config = getattr(run_configs, header["run_config"])(select_tag=tag)
    _beside("lava_processes")
    network, records = _beside("lava_network.py").Network(header, data, folder), Records(header)
    start = time.perf_counter()
    if header["engine"] == "models":
        run_models(network, records, run_config)
    else:
        run_runtime(network, records, run_config, folder)
    if "decision" in header:
        records.arrays["votes"] = np.load(folder / "votes.npy")
    records.arrays["seconds"] = np.float64(time.perf_counter() - start)
    np.savez(folder / "partial.npz", **records.arrays)
    os.replace(folder / "partial.npz", folder / "result.npz")


def main(arguments):
    if arguments == ["probe"]:
        print(json.dumps(probe()))
        return 0
    run(Path(arguments[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
