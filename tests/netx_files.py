"""Network files for the tests of `rsc.export.netx`: slayer's, ours, and what lava-dl's netx makes of them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import h5py
import lava_networks as nets
import numpy as np
import pytest

from rsc.export.netx import write_netx
from rsc.layered import Connection, LayeredProgram

VARIABLE = "RSC_LAVA_DL_PYTHON"
CUBA = {"iDecay": 1024, "vDecay": 123, "vThMant": 80, "refDelay": 1, "gradedSpike": False}


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def images() -> LayeredProgram:
    """Everything that netx can hold at once: graded image -> conv -> grouped conv -> dense -> readout."""
    r = rng()
    first = Connection(
        "x", "conv", nets.grid(r, 4, 2, 3, 2, low=-20, high=20), (2, 6, 8), stride=(2, 1), padding=(1, 0),
        dilation=(1, 3), graded=True,
    )  # fmt: skip
    second = Connection(
        "a", "conv", nets.grid(r, 6, 2, 2, 3, low=-90, high=90), (4, 3, 5), padding=(0, 2), groups=2,
        stride=(1, 2),
    )  # fmt: skip
    third = Connection(
        "b", "dense", nets.grid(r, 5, 48), (6, 2, 4), delay=r.integers(0, 4, (5, 48), np.int32)
    )
    last = Connection("c", "dense", nets.grid(r, 3, 5), (5,), delay=np.asarray(2, np.int32))
    bias: dict[str, Any] = {"bias_mant": r.integers(-30, 60, (4, 3, 5)).astype(np.int32), "bias_exp": 6}
    return nets.program(
        nets.lif("a", (4, 3, 5), first, du=2000, vth=160, scale=31.5, **bias),
        nets.lif("b", (6, 2, 4), second, vth=np.repeat(r.integers(60, 200, 6), 8).reshape(6, 2, 4)),
        nets.lif("c", (5,), third, dv=r.integers(0, 900, 5), offset=r.normal(size=5), bias_exp=6,
                 bias_mant=np.arange(5)),
        nets.lif("r", (3,), last, dv=0, vth=131071, readout="sum", offset=0.5),
        shape=(2, 6, 8), input_max=9,
    )  # fmt: skip


def written(layered: LayeredProgram, folder: Path) -> Path:
    write_netx(layered, folder / "a.net")
    return folder / "a.net"


def dense_file(path: Path, **changes: Any) -> Path:
    """The file that slayer's `export_hdf5` writes for a 30-40-5 CUBA network, with changes by path."""
    r = rng()
    fields: dict[str, Any] = {}
    for i, (inputs, outputs) in enumerate(((30, 40), (40, 5))):
        fields |= {
            f"layer/{i}/type": np.array([b"dense"], "S10"),
            f"layer/{i}/shape": np.array([outputs]),
            f"layer/{i}/inFeatures": inputs,
            f"layer/{i}/outFeatures": outputs,
            f"layer/{i}/weight": nets.grid(r, outputs, inputs, low=-60, high=90).astype(np.float32),
            f"layer/{i}/neuron/type": "CUBA",
        } | {f"layer/{i}/neuron/{name}": value for name, value in CUBA.items()}
    fields |= {"simulation/Ts": 1, "simulation/tSample": 100}
    with h5py.File(path, "w") as file:
        for name, value in (fields | changes).items():
            if value is not None:
                file.create_dataset(name, data=value)
    return path


SCRIPT = '''
"""Run a network file in netx: arguments: file, .npz of frames and options, .npz to write."""
import sys
import numpy as np
from lava.lib.dl.netx import hdf5
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.io.sink import RingBuffer as Sink
from lava.proc.io.source import RingBuffer as Source

if __name__ == "__main__":
    job = np.load(sys.argv[2])
    frames = job["frames"]
    net = hdf5.Network(net_config=sys.argv[1], input_message_bits=int(job["bits"]),
                       skip_layers=int(job["skip"]), reset_interval=1 << 20, reset_offset=1)
    source = Source(data=frames)
    source.s_out.connect(net.inp)
    steps = frames.shape[-1]
    sinks = [Sink(shape=layer.neuron.s_out.shape, buffer=steps) for layer in net.layers]
    for layer, sink in zip(net.layers, sinks):
        layer.neuron.s_out.connect(sink.a_in)
    found = {}
    for i, layer in enumerate(net.layers):
        weight = layer.synapse.weight if hasattr(layer.synapse, "weight") else layer.synapse.weights
        found[f"weight{i}"] = weight.get()
        found[f"exp{i}"] = layer.synapse.proc_params.get("weight_exp") or 0
        for name in ("du", "dv", "vth", "bias_mant", "bias_exp"):
            found[f"{name}{i}"] = getattr(layer.neuron, name).init
    net.run(condition=RunSteps(num_steps=steps), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
    for i, (layer, sink) in enumerate(zip(net.layers, sinks)):
        found[f"s{i}"], found[f"v{i}"] = sink.data.get(), layer.neuron.v.get()
    net.stop()
    np.savez(sys.argv[3], **found)
'''


def in_netx(path: Path, frames: np.ndarray, bits: int, skip: int = 0) -> dict[str, np.ndarray]:
    """What netx makes of a file and frames [T, (C, H, W)], in Lava's shapes; needs lava-dl."""
    python = os.environ.get(VARIABLE)
    if not python:
        pytest.skip(f"{VARIABLE} names no interpreter with lava-dl 0.6.0 (Python 3.10)")
    script, job, out = (path.with_name(name) for name in ("run_netx.py", "job.npz", "out.npz"))
    script.write_text(SCRIPT)
    np.savez(job, frames=np.moveaxis(frames, 0, -1).transpose(*range(frames.ndim - 2, -1, -1), -1), bits=bits,
             skip=skip)  # fmt: skip
    run = subprocess.run(
        [python, str(script), str(path), str(job), str(out)], capture_output=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr.decode()[-2000:]
    with np.load(out) as found:
        return dict(found)
