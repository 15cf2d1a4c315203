"""Loss terms over one training step, one per file; adding one is a file and a line in `AnyTerm`."""

from rsc.training.losses.adversarial import Attack, maximise
from rsc.training.losses.cross_entropy import CrossEntropy
from rsc.training.losses.distillation import Distillation
from rsc.training.losses.gradient_sparsity import GradientSparsity
from rsc.training.losses.interval import Interval
from rsc.training.losses.passes import Pass, Passes
from rsc.training.losses.presynaptic import PreSynaptic
from rsc.training.losses.spike_rate import SpikeRate
from rsc.training.losses.term import Input, Term
from rsc.training.losses.tet import Tet
from rsc.training.losses.trades import Trades

AnyTerm = CrossEntropy | Tet | Distillation | PreSynaptic | Trades | GradientSparsity | SpikeRate | Interval

__all__ = [
    "AnyTerm",
    "Attack",
    "CrossEntropy",
    "Distillation",
    "GradientSparsity",
    "Input",
    "Interval",
    "Pass",
    "Passes",
    "PreSynaptic",
    "SpikeRate",
    "Term",
    "Tet",
    "Trades",
    "maximise",
]
