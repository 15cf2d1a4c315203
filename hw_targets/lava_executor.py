# pyright: reportMissingImports=false
"""Runs Lava's process models in one Python process, without its runtime; loaded by the Lava worker only."""

import numpy as np

CONNECTION_BUFFERS = {
    "Dense": "a_buff",
    "Sparse": "a_buff",
    "DelayDense": "a_buff",
    "DelaySparse": "a_buff",
    "Conv": "a_buf",
}


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


class StatePort:
    """Stands for a PyRefPort: reads a Var of another process's model."""

    def __init__(self, model, name):
        self.model, self.name = model, name

    def read(self):
        return np.asarray(getattr(self.model, self.name))


class Executor:
    """Lava's process models, stepped in one Python process in the order of its SPK phase.

    Per step: sources, then neurons layer by layer, then connections; last, what reads states. A connection
    sends what it computed in the step before, so its reader looks at the buffer and not at its port.
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

        for port in process.ref_ports:
            (var,) = port.get_dst_vars()
            setattr(self.models[process], port.name, StatePort(self.models[var.process], var.name))
        for port in process.in_ports:
            transforms = port.get_incoming_transform_funcs()
            getattr(self.models[process], port.name).sources = [
                (self._reader(source), transforms.get(create_port_id(source.process.id, source.name), []))
                for source in port.get_src_ports()
            ]

    def _reader(self, port):
        model = self.models[port.process]
        out = getattr(model, port.name)
        kind = type(port.process).__name__
        name = CONNECTION_BUFFERS.get(kind)
        if name is None:
            return out.read
        now = (slice(None), 0) if kind.startswith("Delay") else ...
        return lambda: np.asarray(getattr(model, name))[now].astype(out.buffer.dtype)

    def step(self):
        for model in self.models.values():
            model.time_step += 1
            model.run_spk()
        for model in self.models.values():
            if model.post_guard():
                model.run_post_mgmt()


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
