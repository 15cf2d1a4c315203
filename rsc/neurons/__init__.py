"""Spiking neurons over [T, B, ...] with surrogate gradients: state in, state out."""

from rsc.neurons.lif import LIF, lif_scan
from rsc.neurons.surrogate import SURROGATES

__all__ = ["LIF", "SURROGATES", "lif_scan"]
