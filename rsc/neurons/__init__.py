"""Spiking neurons over [T, B, ...] with surrogate gradients: state in, state out."""

from rsc.neurons.base import Neurons
from rsc.neurons.li import LI
from rsc.neurons.lif import IF, LIF, lif_scan
from rsc.neurons.surrogates import SURROGATES, surrogate_of

__all__ = ["IF", "LI", "LIF", "SURROGATES", "Neurons", "lif_scan", "surrogate_of"]
