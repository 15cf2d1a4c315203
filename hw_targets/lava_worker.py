"""Runs one job on lava-nc under its own interpreter; knows the standard library, numpy and lava only.

    python -I lava_worker.py probe            versions as JSON on stdout
    python -I lava_worker.py run FOLDER       FOLDER/job.npz -> FOLDER/result.npz

A job is a chain of layers in Lava's layout (W, H, C) and a payload [T, N, ...] of N samples, which
are run one after another as a single stream. A layer behind k connections handles input step i at
Lava time step i + 1 + k, and `LIFReset` clears it in the step where a sample's first input reaches
it, so every sample starts from zero state and sees its biases for exactly T steps. Results are
shifted back by k: entry (t, n) is what a layer did with frame t of sample n.
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

CONNECTION_BUFFERS = {"Dense": "a_buff", "Sparse": "a_buff", "Conv": "a_buf"}


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


class InPort:
    """Stands for a PyInPort: adds up what its sources hold, starting in the port's own dtype."""

    def __init__(self, shape, dtype):
        self.shape, self.dtype, self.sources = shape, dtype, []

    def recv(self):
        total = np.zeros(self.shape, self.dtype)
        for read, transforms in self.sources:
            data = read()
            for transform in transforms:
                data = transform(data)
            total = total + data
        return total


class OutPort:
    """Stands for a PyOutPort: a copy into the port's dtype casts as C does."""

    def __init__(self, shape, dtype):
        self.buffer = np.zeros(shape, dtype)

    def send(self, data):
        self.buffer[...] = data

    def read(self):
        return self.buffer.copy()


class Executor:
    """Lava's own process models, stepped in one Python process in the order of its SPK phase.

    Per step: sources, then neurons layer by layer, then connections. A connection sends what it
    computed in the step before, so its reader looks at the buffer and not at its port.
    """

    def __init__(self, processes, run_config):
        from lava.magma.compiler.compiler_graphs import ProcGroupDiGraphs

        self.models, known = {}, {}
        for process in processes:
            if type(process) not in known:  # the search executes files; once per type is enough
                candidates = ProcGroupDiGraphs._find_proc_models(process)
                known[type(process)] = run_config.select(process, candidates)
            self.models[process] = _built(known[type(process)], process)
        for process in processes:
            self._wire(process)

    def _wire(self, process):
        from lava.magma.core.process.ports.ports import create_port_id

        for port in process.in_ports:
            transforms = port.get_incoming_transform_funcs()
            getattr(self.models[process], port.name).sources = [
                (self._reader(source), transforms.get(create_port_id(source.process.id, source.name), []))
                for source in port.get_src_ports()
            ]

    def _reader(self, port):
        model = self.models[port.process]
        out = getattr(model, port.name)
        name = CONNECTION_BUFFERS.get(type(port.process).__name__)
        if name is None:
            return out.read
        return lambda: np.asarray(getattr(model, name)).astype(out.buffer.dtype)

    def step(self):
        for model in self.models.values():
            model.time_step += 1
            model.run_spk()


def _built(model_class, process):
    """A process model with the attributes that Lava's builder would give it."""
    model = model_class(process.proc_params)
    model.var_id_to_var_map = {}
    for var in process.vars:
        kind = getattr(model_class, var.name)
        value = var.init
        if issubclass(kind.cls, np.ndarray):
            value = np.zeros(var.shape, kind.d_type)
            value[:] = var.init
        setattr(model, var.name, value)
    for ports, stand_in in ((process.in_ports, InPort), (process.out_ports, OutPort)):
        for port in ports:
            setattr(model, port.name, stand_in(port.shape, getattr(model_class, port.name).d_type))
    return model


class Network:
    """The Lava process graph of a job: a source, the connections and one LIFReset per layer."""

    def __init__(self, header, data):
        from lava.proc.io.source import RingBuffer
        from lava.proc.lif.process import LIFReset

        self.header = header
        steps, samples = header["steps"], header["samples"]
        self.depth = max(layer["depth"] for layer in header["layers"])
        frames = np.moveaxis(data["payload"], 0, 1).reshape(steps * samples, *header["input_shape"])
        drain = np.zeros((self.depth, *frames.shape[1:]), frames.dtype)
        stream = np.ascontiguousarray(np.moveaxis(np.concatenate([frames, drain]), 0, -1))
        self.source, self.neurons, self.connections = RingBuffer(data=stream), [], []
        self.total = steps * samples + self.depth
        number = int if header["arithmetic"] == "integer" else float
        for i, layer in enumerate(header["layers"]):
            neuron = LIFReset(
                shape=tuple(layer["shape"]),
                du=number(layer["du"]),
                dv=number(layer["dv"]),
                vth=number(layer["vth"]),
                bias_mant=data[f"{i}.bias"],
                bias_exp=layer["bias_exp"],
                reset_interval=steps,
                reset_offset=(1 + layer["depth"]) % steps,
            )
            for j, spec in enumerate(layer["connections"]):
                self._connect(spec, data, f"{i}.{j}", neuron)
            self.neurons.append(neuron)

    def _connect(self, spec, data, key, neuron):
        process = _connection(spec, data, key)
        source = self.source if spec["source"] < 0 else self.neurons[spec["source"]]
        out = source.s_out
        (out if out.shape == process.s_in.shape else out.flatten()).connect(process.s_in)
        out = process.a_out
        (out if out.shape == neuron.a_in.shape else out.reshape(neuron.a_in.shape)).connect(neuron.a_in)
        self.connections.append(process)

    @property
    def processes(self):
        """In the order of execution within one step."""
        return [self.source, *self.neurons, *self.connections]

    def aligned(self, layer, step):
        """(t, n) of what a layer does at 0-based Lava step `step`, or None before and after its data."""
        position = step - layer["depth"]
        if not 0 <= position < self.header["steps"] * self.header["samples"]:
            return None
        sample, t = divmod(position, self.header["steps"])
        return t, sample


def _connection(spec, data, key):
    """The process of one connection; each kind is imported when needed, as Conv's imports take a second."""
    if spec["kind"] == "conv":
        from lava.proc.conv.process import Conv

        return Conv(
            weight=data[f"{key}.weight"],
            input_shape=tuple(spec["input_shape"]),
            stride=tuple(spec["stride"]),
            padding=tuple(spec["padding"]),
            dilation=tuple(spec["dilation"]),
            groups=spec["groups"],
            num_message_bits=spec["message_bits"],
        )
    from lava.proc.dense.process import Dense
    from lava.proc.sparse.process import Sparse
    from lava.utils.weightutils import SignMode
    from scipy.sparse import csr_matrix

    options = {
        "num_message_bits": spec["message_bits"],
        "weight_exp": spec["weight_exp"],
        "sign_mode": SignMode.MIXED,  # decided from the data, a single-signed layer would change its grid
    }
    if spec["kind"] == "dense":
        return Dense(weights=data[f"{key}.weight"], **options)
    parts = (data[f"{key}.data"], data[f"{key}.indices"], data[f"{key}.indptr"])
    return Sparse(weights=csr_matrix(parts, shape=tuple(spec["matrix_shape"])), **options)


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
    executor = Executor(network.processes, run_config)
    neurons = [executor.models[p] for p in network.neurons]
    for step in range(network.total):
        executor.step()
        for i, (layer, model) in enumerate(zip(network.header["layers"], neurons, strict=True)):
            where = network.aligned(layer, step)
            if where is not None:
                records.add(i, where, model.s_out.buffer, {"u": model.u, "v": model.v})


def run_runtime(network, records, run_config, folder):
    """Engine "runtime": Lava's own runtime, one operating system process per Lava process."""
    _beside("lava_processes")
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
    _beside("lava_supervisor.py").supervise(
        network.source, network.total, run_config, network.header["timeout_s"]
    )
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
    network, records = Network(header, data), Records(header)
    start = time.perf_counter()
    if header["engine"] == "models":
        run_models(network, records, run_config)
    else:
        run_runtime(network, records, run_config, folder)
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
