# pyright: reportMissingImports=false, reportOptionalMemberAccess=false, reportArgumentType=false
"""Plain Lava networks for tests, built here process by process and run by Lava's own runtime.

    python -I raw_lava.py SHIM FOLDER       FOLDER/job.npz -> FOLDER/result.npz

runs under the Lava interpreter; SHIM is the module whose `load_lava` makes lava-nc importable, the only thing
taken from the package. A job is a list of networks of plain LIF, Dense, DelayDense, Sparse, DelaySparse, Conv
and RingBuffer processes, in Lava's shapes (W, H, C), fixed point. Nothing is reset, shifted or cut: entry t
is what a process has done in Lava's time step t + 1. `run` is the other side, for tests.
"""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np


def main(shim, folder):
    """Run the networks of a job one after another."""
    spec = importlib.util.spec_from_file_location("shim", shim)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.load_lava()
    with np.load(folder / "job.npz") as job:
        data = {name: job[name] for name in job.files}
    found = {}
    for n, network in enumerate(json.loads(data.pop("networks").tobytes())):
        mine = {key.split("/", 1)[1]: value for key, value in data.items() if key.startswith(f"{n}/")}
        found |= {f"{n}/{key}": value for key, value in simulate(network, mine).items()}
    np.savez(folder / "result.npz", **found)


def simulate(network, arrays):
    """s, u, v [steps, ...] of every neuron process."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.sink import RingBuffer as Sink
    from lava.proc.io.source import RingBuffer as Source
    from lava.proc.lif.process import LIF

    steps = network["steps"]
    ends = {
        name: Source(data=np.moveaxis(arrays[f"source.{name}"], 0, -1).astype(np.int32))
        for name in network["sources"]
    }
    neurons, sinks = {}, {}
    for name, fields in network["neurons"].items():
        shape = tuple(fields["shape"])
        own = {key: arrays[f"{name}.{key}"] for key in ("du", "dv", "vth", "bias_mant", "bias_exp", "v")}
        own |= {key: own[key].item() for key in ("du", "dv", "vth") if own[key].size == 1}
        neurons[name] = ends[name] = LIF(**own, shape=shape)
        sinks[name] = Sink(shape=shape, buffer=steps)
        neurons[name].s_out.connect(sinks[name].a_in)
    for k, fields in enumerate(network["connections"]):
        process = connection(fields, arrays, k)
        joined(ends[fields["source"]].s_out, process.s_in)
        joined(process.a_out, neurons[fields["target"]].a_in)
    found = {f"{name}.{key}": [] for name in neurons for key in "uv"}
    first = next(iter(neurons.values()))
    for _ in range(steps):
        first.run(condition=RunSteps(num_steps=1), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
        for name, process in neurons.items():
            found[f"{name}.u"].append(np.array(process.u.get()))
            found[f"{name}.v"].append(np.array(process.v.get()))
    spikes = {f"{name}.s": np.moveaxis(sink.data.get(), -1, 0) for name, sink in sinks.items()}
    first.stop()
    return {key: np.stack(values) for key, values in found.items()} | spikes


def joined(out, into):
    """Connect two ports, through a reshaping one where an image meets a flat process."""
    (out if out.shape == into.shape else out.reshape(into.shape)).connect(into)


def connection(fields, arrays, k):
    """One process; its options are Lava's own keywords."""
    from lava.proc.conv.process import Conv
    from lava.proc.dense.process import DelayDense, Dense
    from lava.proc.sparse.process import DelaySparse, Sparse
    from lava.utils.weightutils import SignMode
    from scipy.sparse import csr_matrix

    weight, kind, options = arrays[f"{k}.weight"], fields["kind"], dict(fields["options"])
    if kind == "Conv":
        return Conv(weight=weight, **{key: _tuple(value) for key, value in options.items()})
    if "sign_mode" in options:
        options["sign_mode"] = SignMode[options["sign_mode"]]
    if kind == "Dense":
        return Dense(weights=weight, **options)
    if kind == "Sparse":
        return Sparse(weights=csr_matrix(weight), **options)
    delays = arrays[f"{k}.delays"]
    if kind == "DelayDense":
        return DelayDense(weights=weight, delays=delays, **options)
    rows, columns = np.nonzero(weight)
    waits = csr_matrix((delays[rows, columns], (rows, columns)), shape=weight.shape)
    return DelaySparse(weights=csr_matrix(weight), delays=waits, **options)


def _tuple(value):
    return tuple(value) if isinstance(value, list) else value


class Network:
    """A network in the words of Lava, put together by a test; arrays are in Lava's shapes."""

    def __init__(self, steps):
        self.description = {"steps": steps, "sources": [], "neurons": {}, "connections": []}
        self.arrays = {}

    def source(self, name, values):
        """A RingBuffer that sends values [steps, ...] one after another."""
        self.description["sources"].append(name)
        self.arrays[f"source.{name}"] = np.asarray(values, np.int32)

    def lif(self, name, shape, *, du=4095, dv=0, vth=100, bias_mant=0, bias_exp=0, v=0):
        """A LIF."""
        self.description["neurons"][name] = {"shape": list(shape)}
        own = {"du": du, "dv": dv, "vth": vth, "bias_mant": bias_mant, "bias_exp": bias_exp, "v": v}
        self.arrays |= {f"{name}.{key}": np.asarray(value) for key, value in own.items()}

    def connect(self, kind, source, target, weight, delays=None, **options):
        """A connection process between two others."""
        k = len(self.description["connections"])
        fields = {"kind": kind, "source": source, "target": target, "options": options}
        self.description["connections"].append(fields)
        self.arrays[f"{k}.weight"] = np.asarray(weight, np.int32)
        if delays is not None:
            self.arrays[f"{k}.delays"] = np.broadcast_to(delays, np.shape(weight)).astype(np.int64)


def run(networks):
    """ "name.s", "name.u" and "name.v" [steps, ...] of the neurons of each network."""
    from rsc.hw_targets import isolate, lava_env, lava_job

    job = {"networks": np.frombuffer(json.dumps([n.description for n in networks]).encode(), np.uint8)}
    for i, network in enumerate(networks):
        job |= {f"{i}/{key}": value for key, value in network.arrays.items()}
    with isolate.private_folder("rsc-raw-lava-") as folder:
        np.savez(folder / "job.npz", **job)
        command = [str(lava_env.status().python), "-I", __file__, str(lava_job.WORKER), str(folder)]
        isolate.run(command, folder, isolate.Budget(200.0), name="Plain Lava")
        with np.load(folder / "result.npz") as found:
            values = {name: found[name] for name in found.files}
    return [
        {key.split("/", 1)[1]: value for key, value in values.items() if key.startswith(f"{i}/")}
        for i in range(len(networks))
    ]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
