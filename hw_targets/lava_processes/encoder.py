# pyright: reportMissingImports=false
"""The stochastic encoder as a Lava process: images in, the integers of every step out.

It draws the very noise of `rsc.coding` (whose file of integer arithmetic it loads), so the frames are those
of every other target, bit for bit. Imported by the Lava worker only.
"""

import importlib.util
import sys

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class Encoder(AbstractProcess):
    """Sends one frame per step of N samples, a sample every `period` steps, and zeros between them.

    Args:
        shape: of a frame in Lava's layout.
        image: int64 [N, ...] in torch's layout: levels, or the limits of coins with their sign.
        words: path of the file that draws integers.
        law: "gaussian", "coin" or "none"; fresh: at every step; bits: of the coins.
        seed; sample, tag: uint64 [N], the keys.
        thresholds: tuple of uint64 arrays, one for each noise frame ("gaussian").
        table: [C or 1, R], what is sent for a number of levels; low: the number of its first column.
        steps, period: of the samples.
    """

    def __init__(self, *, shape, **fields):
        super().__init__(shape=shape, **fields)
        self.s_out = OutPort(shape=shape)


class _EncoderModel(PyLoihiProcessModel):
    s_out = None

    def run_spk(self):
        p = self.proc_params
        sample, t = divmod(self.time_step - 1, p["period"])
        silent = sample >= len(p["image"]) or t >= p["steps"]
        self.s_out.send(np.zeros(p["shape"]) if silent else self._frame(sample, t))

    def _frame(self, n, t):
        p = self.proc_params
        image = p["image"][n]
        level = image.reshape(-1) + 0
        frame = t if p["fresh"] else 0
        if p["law"] == "gaussian":
            level = level + self._words(n, frame, 2, p["thresholds"][frame])
        elif p["law"] == "coin":
            level = np.sign(level) * (self._words(n, frame, 4, p["bits"]) < np.abs(level))
        table, at = p["table"], level.reshape(image.shape) - p["low"]
        at = np.clip(at, 0, table.shape[1] - 1)
        channels = at.reshape(len(table), -1)  # one row of the table for each channel, or for all
        sent = np.take_along_axis(table, channels, 1).reshape(image.shape)
        return sent.transpose().reshape(p["shape"])

    def _words(self, n, frame, sites, law):
        """Integers of noise frame `frame` of sample n, [size]."""
        p = self.proc_params
        drawing, size = _drawing(p["words"]), p["image"][n].size
        step = np.array([frame], np.uint64)
        blocks = drawing.blocks_for(size, sites)
        words = drawing.words_at(p["seed"], step, p["sample"][n : n + 1], p["tag"][n : n + 1], blocks)
        draw = drawing.gaussian_integers if sites == 2 else drawing.uniform_integers
        return draw(words, size, law)[0]


@implements(proc=Encoder, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class EncoderModelFixed(_EncoderModel):
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)


@implements(proc=Encoder, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class EncoderModelFloat(_EncoderModel):
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, float)


def _drawing(path):
    """The file of integer arithmetic as a module; the name is its own, so that nothing is shadowed."""
    name = "rsc_coding_words"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]
