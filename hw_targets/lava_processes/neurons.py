# pyright: reportMissingImports=false
"""Lava's LIF for samples that must not touch one another. Imported by the Lava worker only."""

import numpy as np
from lava.proc.lif.models import PyLifModelBitAcc, PyLifModelFloat
from lava.proc.lif.process import LIF


class SampleLIF(LIF):
    """A LIF that begins a sample every `period` steps, from step `start` (0-based) on, and runs for `steps`.

    Each sample starts from u = 0 and the v of construction. In all other steps the neurons neither hear
    nor fire, so what is still under way at a sample's end is lost if it arrives before the next one.
    """

    def __init__(self, *, start, steps, period, **fields):
        super().__init__(**fields, start=start, steps=steps, period=period)


class _Sampled:
    """Lava's model, run in the steps of a sample only."""

    first_v = None

    def run_spk(self):
        start, steps, period = (self.proc_params[name] for name in ("start", "steps", "period"))
        sample, t = divmod(self.time_step - 1 - start, period)
        if sample < 0 or t >= steps:
            self.a_in.recv()
            self.s_out.send(np.zeros_like(self.v))
            return
        if self.first_v is None:
            self.first_v = self.v.copy()
        if t == 0:
            self.u[:] = 0
            self.v[:] = self.first_v
        super().run_spk()


# `implements` refuses models of a derived process; its attribute may be set.
class SampleModelFixed(_Sampled, PyLifModelBitAcc):
    implements_process = SampleLIF


class SampleModelFloat(_Sampled, PyLifModelFloat):
    implements_process = SampleLIF
