# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""Sinks that write every step straight into a prepared .npy file.

Lava's own sinks hand their data back one element per message (about 27 microseconds each), which
makes large recordings impractical. Imported by the Lava worker only.
"""

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyRefPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, RefPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class SpikeRecorder(AbstractProcess):
    """Writes what arrives at `a_in`, as 0/1, into row (time_step - 1) of the file at `path`."""

    def __init__(self, *, shape, path):
        super().__init__(shape=shape, path=path)
        self.a_in = InPort(shape=shape)


class StateRecorder(AbstractProcess):
    """Writes the Var referenced by `state`, after the step's update, into row (time_step - 1)."""

    def __init__(self, *, shape, path):
        super().__init__(shape=shape, path=path)
        self.state = RefPort(shape=shape)


class _FileModel(PyLoihiProcessModel):
    """A model that owns the file; opened on first use, inside the process that writes it."""

    def __init__(self, proc_params):
        super().__init__(proc_params)
        self.rows = None

    def write(self, data):
        if self.rows is None:
            self.rows = np.load(self.proc_params["path"], mmap_mode="r+")
        self.rows[self.time_step - 1] = data


class _SpikeModel(_FileModel):
    a_in = None

    def run_spk(self):
        self.write(self.a_in.recv() != 0)


@implements(proc=SpikeRecorder, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class SpikeModelFixed(_SpikeModel):
    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)


@implements(proc=SpikeRecorder, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class SpikeModelFloat(_SpikeModel):
    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, float)


class _StateModel(_FileModel):
    state = None

    def post_guard(self):
        return True

    def run_post_mgmt(self):
        self.write(self.state.read())


@implements(proc=StateRecorder, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class StateModelFixed(_StateModel):
    state: PyRefPort = LavaPyType(PyRefPort.VEC_DENSE, np.int32)


@implements(proc=StateRecorder, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class StateModelFloat(_StateModel):
    state: PyRefPort = LavaPyType(PyRefPort.VEC_DENSE, float)
