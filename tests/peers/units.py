"""The same graph in another unit of time."""

from __future__ import annotations

import copy

import nir


def scale_time(graph: nir.NIRGraph, factor: float) -> nir.NIRGraph:
    """A copy whose time constants and delays are `factor` times as long; r of I and IF is per time."""
    scaled = copy.deepcopy(graph)
    for node in scaled.nodes.values():
        if isinstance(node, nir.NIRGraph):
            node.nodes = scale_time(node, factor).nodes
        for field in ("tau", "tau_mem", "tau_syn", "delay"):
            if hasattr(node, field):
                setattr(node, field, getattr(node, field) * factor)
        if isinstance(node, nir.I | nir.IF):
            node.r = node.r / factor
    return scaled
