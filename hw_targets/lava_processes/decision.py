# pyright: reportMissingImports=false
"""The classifier's end as a Lava process: what the output says, added up, becomes a class and a vote.

Imported by the Lava worker only.
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


class Decision(AbstractProcess):
    """Decides the class of each sample at its last step, and counts the votes of each image.

    Args:
        shape: of the output layer, in Lava's layout; a class for each neuron, in torch's order.
        path: prepared .npy int64 [images, K] of votes; row `group[n]` gains the vote of sample n.
        group: int64 [N].
        rule: "total" or "last" of the steps.
        readout: "" counts what arrives at `a_in`; "sum" and "state" read v at `state`.
        unit, offset: of v, so that the program's v is v / unit + offset; first: v before the first step.
        start: 0-based step of the first sample; steps, period: of the samples.
    """

    def __init__(self, *, shape, **fields):
        super().__init__(shape=shape, **fields)
        self.a_in = InPort(shape=shape)
        self.state = RefPort(shape=shape)


class _DecisionModel(PyLoihiProcessModel):
    a_in = None
    state = None
    total = None
    before = None
    fired = None

    def run_spk(self):
        self.fired = self.a_in.recv() != 0

    def post_guard(self):
        return True

    def run_post_mgmt(self):
        p = self.proc_params
        sample, t = divmod(self.time_step - 1 - p["start"], p["period"])
        if sample < 0 or sample >= len(p["group"]) or t >= p["steps"]:
            return
        if t == 0:
            self.before = p["first"]
        said = self._said()
        self.total = said if t == 0 or p["rule"] == "last" else self.total + said
        if t == p["steps"] - 1:
            votes = np.load(p["path"], mmap_mode="r+")
            votes[p["group"][sample], int(np.argmax(self._logits()))] += 1
            votes.flush()

    def _said(self):
        """Spikes of this step, what an accumulator gained in it, or v."""
        p = self.proc_params
        if not p["readout"]:
            return self.fired.astype(np.float64)
        v = np.asarray(self.state.read(), np.float64).copy()
        said, self.before = v - self.before, v
        return v if p["readout"] == "state" else said

    def _logits(self):
        """[K] in torch's order, up to a positive factor."""
        p = self.proc_params
        total = self.total
        if p["readout"] == "state":
            total = total + p["offset"] * p["unit"] * (1 if p["rule"] == "last" else p["steps"])
        return np.ascontiguousarray(total.transpose()).reshape(-1)


@implements(proc=Decision, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class DecisionModelFixed(_DecisionModel):
    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    state: PyRefPort = LavaPyType(PyRefPort.VEC_DENSE, np.int32)


@implements(proc=Decision, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class DecisionModelFloat(_DecisionModel):
    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, float)
    state: PyRefPort = LavaPyType(PyRefPort.VEC_DENSE, float)
