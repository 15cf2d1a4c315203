# pyright: reportMissingImports=false
"""Builds the Lava processes of a job; loaded by the Lava worker only."""

import importlib

import numpy as np


class Network:
    """The Lava process graph of a job: the sources, the connections and the neurons of each layer."""

    def __init__(self, header, data, folder):
        self.header, self.data, self.folder = header, data, folder
        self.sources, self.connections = {}, []
        end = max(layer["level"] for layer in header["layers"])
        self.total = (header["samples"] - 1) * header["period"] + header["steps"] + end
        self.neurons = [self._neuron(i, layer) for i, layer in enumerate(header["layers"])]
        for i, layer in enumerate(header["layers"]):
            for j, spec in enumerate(layer["connections"]):
                self._connect(spec, f"{i}.{j}", self.neurons[i])
        self.decisions = [self._decision(header["decision"])] if "decision" in header else []

    def _neuron(self, i, layer):
        from lava.proc.lif.process import LIFReset

        fields = {name: self._parameter(f"{i}.{name}") for name in ("du", "dv", "vth")}
        fields |= {"bias_mant": self.data[f"{i}.bias"], "bias_exp": layer["bias_exp"]}
        fields["shape"] = tuple(layer["shape"])
        period, start = self.header["period"], layer["level"]
        if not self.header["gated"]:
            return LIFReset(**fields, reset_interval=period, reset_offset=(1 + start) % period)
        neurons = importlib.import_module("lava_processes.neurons")
        first = self._parameter(f"{i}.v_init")
        return neurons.SampleLIF(**fields, v=first, start=start, steps=self.header["steps"], period=period)

    def _parameter(self, key):
        """A plain number, or an array with one for each neuron; Lava's models use both as they are."""
        value = self.data[key]
        return value if value.ndim else value.item()

    def _source(self, spec, key):
        """The process behind a connection: a layer's neurons, an input's frames or the constant's steps."""
        from lava.proc.io.source import RingBuffer

        which = spec["source"]
        if which is not None and which >= 0:
            return self.neurons[which]
        name = f"{key}.constant" if which is None else f"payload.{-1 - which}"
        if name not in self.sources and which is not None and "encoder" in self.header:
            self.sources[name] = self._encoder(self.header["encoder"])
        elif name not in self.sources:
            data = self.data[name] if which is None else self._stream(self.data[name])
            self.sources[name] = RingBuffer(data=np.ascontiguousarray(data))
        return self.sources[name]

    def _encoder(self, about):
        """The process that draws the frames of the only input."""
        encoder = importlib.import_module("lava_processes.encoder")
        arrays = {name: self.data[f"encoder.{name}"] for name in ("image", "sample", "tag", "table")}
        thresholds = tuple(self.data[f"encoder.thresholds.{t}"] for t in range(about["frames"]))
        plain = {name: about[name] for name in ("law", "words", "seed", "fresh", "bits", "low")}
        times = {name: self.header[name] for name in ("steps", "period")}
        shape = tuple(self.header["input_shape"])
        return encoder.Encoder(shape=shape, thresholds=thresholds, **arrays, **plain, **times)

    def _decision(self, about):
        """The process that votes; its votes are the file "votes.npy" of the folder."""
        decision = importlib.import_module("lava_processes.decision")
        layer, neuron = self.header["layers"][about["layer"]], self.neurons[about["layer"]]
        path = self.folder / "votes.npy"
        np.save(path, np.zeros((about["images"], int(np.prod(layer["shape"]))), np.int64))
        arrays = {name: self.data[f"decision.{name}"] for name in ("group", "offset", "first")}
        plain = {name: about[name] for name in ("rule", "readout", "unit")}
        times = {name: self.header[name] for name in ("steps", "period")}
        made = decision.Decision(
            shape=tuple(layer["shape"]), path=str(path), start=layer["level"], **arrays, **plain, **times
        )
        neuron.s_out.connect(made.a_in)
        made.state.connect_var(neuron.v)
        return made

    def _stream(self, payload):
        """Frames [T, N, ...] of all samples as [..., time], nothing between and after them."""
        samples, steps, period = (self.header[name] for name in ("samples", "steps", "period"))
        stream = np.zeros((samples, period, *payload.shape[2:]), payload.dtype)
        stream[:, :steps] = np.moveaxis(payload, 0, 1)
        stream = stream.reshape(samples * period, *payload.shape[2:])
        padding = np.zeros((max(0, self.total - len(stream)), *payload.shape[2:]), payload.dtype)
        return np.moveaxis(np.concatenate([stream, padding])[: self.total], 0, -1)

    def _connect(self, spec, key, neuron):
        process = _connection(spec, self.data, key)
        out = self._source(spec, key).s_out
        (out if out.shape == process.s_in.shape else out.flatten()).connect(process.s_in)
        out = process.a_out
        (out if out.shape == neuron.a_in.shape else out.reshape(neuron.a_in.shape)).connect(neuron.a_in)
        self.connections.append(process)

    @property
    def processes(self):
        """In the order of execution within one step."""
        return [*self.sources.values(), *self.neurons, *self.decisions, *self.connections]

    def aligned(self, layer, step):
        """(t, n) of what a layer does at 0-based Lava step `step`, or None before and after its data."""
        sample, t = divmod(step - layer["level"], self.header["period"])
        inside = 0 <= sample < self.header["samples"] and t < self.header["steps"]
        return (t, sample) if inside else None


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
    from lava.proc.dense.process import DelayDense, Dense
    from lava.proc.sparse.process import DelaySparse, Sparse
    from lava.utils.weightutils import SignMode
    from scipy.sparse import csr_matrix

    options = {
        "num_message_bits": spec["message_bits"],
        "weight_exp": spec["weight_exp"],
        "sign_mode": SignMode[spec["sign_mode"]],  # told, as Lava's own guess would change the grid
    }
    weight = data.get(f"{key}.weight")
    if spec["kind"] == "dense":
        return Dense(weights=weight, **options)
    if spec["kind"] == "delay_dense":
        return DelayDense(weights=weight, delays=data[f"{key}.delays"], **options)
    parts, shape = (data[f"{key}.indices"], data[f"{key}.indptr"]), tuple(spec["matrix_shape"])
    weight = csr_matrix((data[f"{key}.data"], *parts), shape=shape)
    if spec["kind"] == "sparse":
        return Sparse(weights=weight, **options)
    waits = csr_matrix((np.full(weight.nnz, spec["longest"], np.int64), *parts), shape=shape)
    return DelaySparse(weights=weight, delays=waits, **options)
