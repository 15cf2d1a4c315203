"""What a run of a layered program must give, by the listing: the comparison that tests of `lava` share."""

from __future__ import annotations

from collections.abc import Mapping

import lava_listing
import numpy as np

from rsc.hw_targets.base import StepsResult
from rsc.layered import LayeredProgram


def assert_equal_to_listing(
    layered: LayeredProgram, frames: Mapping[str, np.ndarray], found: StepsResult
) -> None:
    """Spikes, u, v and counts of all layers, and the outputs; equal in integers, within 1e-9 in floats."""
    integer = layered.arithmetic == "integer"
    close = 0.0 if integer else 1e-9
    traces = lava_listing.run(layered, lava_listing.payloads(layered, frames))
    for layer in layered.layers:
        name, trace = layer.name, traces[layer.name]
        assert np.array_equal(found.spikes.rasters[name], trace.s), name
        v = trace.v if integer else trace.v + layer.offset
        for state, expected in (("u", trace.u), ("v", v)):
            got = found.spikes.states[f"{name}.{state}"]
            assert got.dtype == expected.dtype
            np.testing.assert_allclose(got, expected, close, close, err_msg=f"{name}.{state}")
        if name in found.spikes.counts:
            assert np.array_equal(found.spikes.counts[name], trace.s.sum(0)), name
    assert set(found.outputs) == {node for node, _ in layered.outputs}
    for node, names in layered.outputs:
        expected = sum(activity(layered, name, traces[name]) for name in names)
        np.testing.assert_allclose(found.outputs[node], expected, rtol=1e-12, atol=1e-9, err_msg=node)


def activity(layered: LayeredProgram, name: str, trace: lava_listing.Trace) -> np.ndarray:
    """What a layer adds to an output, step by step."""
    layer = layered.by_name[name]
    unit = 64 * layer.scale if layered.arithmetic == "integer" else layer.scale
    values, before = [], trace.v[0] * 0 + layer.v_init
    for s, v in zip(trace.s, trace.v, strict=True):
        values.append(
            {"": s * 1.0, "sum": (v - before) / unit, "state": v / unit + layer.offset}[layer.readout]
        )
        before = v
    return np.stack(values)
