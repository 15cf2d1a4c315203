"""Other counters on the published vector: equal to ours where they are right, and each known fault shown.

SpikingJelly and sinabs come with the `peers` extra; the cases of NeuroBench run where it is installed. Every
expected number of a fault was found by running the tool, and the right one by walking over every event.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from energy_vectors import B1, B2, B3, W1, W2, W3, XD, XE, T, program, simulate
from torch import Tensor, nn

from rsc.energy import count

pytestmark = pytest.mark.filterwarnings("ignore")  # of the peers
SOP = {"conv1": 9140, "conv2": 534, "fc": 170}
SOP_NZ = {"conv1": 8611, "conv2": 506, "fc": 160}


def layers() -> dict[str, tuple[nn.Module, Tensor]]:
    """Each weighted layer of the vector as a torch module, with what it hears [T, ...]."""
    run = simulate(XE)
    conv1, conv2, fc = nn.Conv2d(2, 4, 3, 1, 1), nn.Conv2d(4, 6, 3, 2, 0), nn.Linear(54, 10)
    for layer, w, b in ((conv1, W1, B1), (conv2, W2, B2), (fc, W3, B3)):
        layer.weight.data, layer.bias = _float(w), nn.Parameter(_float(b))
    heard = {"conv1": run.x[:, 0], "conv2": run.s1[:, 0], "fc": run.s2[:, 0].reshape(T, 54)}
    return {name: (made, _float(heard[name])) for name, made in zip(SOP, (conv1, conv2, fc), strict=True)}


def _float(x: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x, np.float32))


def ours(field: str) -> dict[str, int]:
    counts = count(program(), simulate(XE).record(), T, input_events=True)
    return {n.node: int(n.per_pass(field).sum()) for n in counts.nodes if n.params}


def spikingjelly(counter: str = "SynOpCounter") -> Callable[[nn.Module, Tensor], int]:
    base = pytest.importorskip("spikingjelly.activation_based.op_counter.base")
    package = importlib.import_module("spikingjelly.activation_based.op_counter")

    def run(layer: nn.Module, x: Tensor) -> int:
        made = getattr(package, counter)()
        with torch.no_grad(), base.DispatchCounterMode([made]):
            layer(x)
        return int(made.get_total())

    return run


def sinabs() -> Callable[[nn.Module, Tensor], float]:
    hooks = pytest.importorskip("sinabs.hooks")

    def run(layer: nn.Module, x: Tensor) -> float:
        plain = isinstance(layer, nn.Linear)
        hook = hooks.linear_layer_synops_hook if plain else hooks.conv_layer_synops_hook
        handle = layer.register_forward_hook(hook)
        with torch.no_grad():
            layer(x)
        handle.remove()
        data: Any = layer.hook_data
        return float(data["layer_synops_per_timestep"]) * len(x)

    return run


def neurobench() -> Callable[..., tuple[int, bool]]:
    for module in (
        "neurobench.metrics.utils.layers",
        "neurobench.metrics.utils",
        "neurobench.benchmarks.utils",
    ):
        try:
            found = getattr(importlib.import_module(module), "single_layer_MACs", None)
        except ImportError:
            continue
        if found is not None:
            return found
    pytest.skip("NeuroBench is not installed: pip install --no-deps neurobench")


def test_sop_equals_the_counter_of_spikingjelly() -> None:
    counted = spikingjelly()
    assert {name: counted(layer, x) for name, (layer, x) in layers().items()} == SOP == ours("sop")


def test_sop_equals_the_hooks_of_sinabs() -> None:
    counted = sinabs()
    assert {n: counted(layer, x) for n, (layer, x) in layers().items()} == pytest.approx(SOP)


def test_sop_nz_equals_the_effective_acs_of_neurobench() -> None:
    counted = neurobench()
    found = {name: counted(x, layer) for name, (layer, x) in layers().items()}
    assert {name: ops for name, (ops, _) in found.items()} == SOP_NZ == ours("sop_nz")
    assert all(binary for _, binary in found.values())
    dense = sum(counted(x, layer, total=True)[0] for layer, x in layers().values())
    assert dense == 30976 + 15552 + 4320


def test_spikingjelly_makes_dense_macs_of_a_layer_in_which_one_value_is_graded() -> None:
    """One 0.5 among binary events: 9140 accumulates become 36864 multiplications, padding included."""
    layer, x = layers()["conv1"]
    graded = x.clone()
    graded[0, 0, 0, 0] = 0.5
    assert spikingjelly()(layer, graded) == 0
    assert spikingjelly("MACCounter")(layer, graded) == 36864
    assert spikingjelly("MACCounter")(layer, x) == 0


def test_spikingjelly_counts_padding_of_a_directly_coded_layer() -> None:
    layer, _ = layers()["conv1"]
    direct = count(program(), simulate(XD).record(), T)["conv1"]
    assert spikingjelly("MACCounter")(layer, _float(XD[:, 0])) == 36864
    assert int(direct.per_pass("mac")[0]) == 30976


def test_spikingjelly_counts_pruned_weights() -> None:
    layer, x = layers()["conv1"]
    layer.weight.data[:3] = 0  # type: ignore[index]
    assert spikingjelly()(layer, x) == 9140
    layer.weight.data[:] = 0  # type: ignore[index]
    assert spikingjelly()(layer, x) == 0  # now it takes the weights for the spikes


def test_sinabs_weighs_operations_by_the_value_of_the_input() -> None:
    """Half of every spike is half of the operations; the pixels of direct coding count as spikes."""
    layer, x = layers()["conv1"]
    assert sinabs()(layer, 0.5 * x) == pytest.approx(4570)
    assert sinabs()(layer, _float(XD[:, 0])) == pytest.approx(9883.5)


def test_sinabs_counts_pruned_weights() -> None:
    layer, x = layers()["fc"]
    nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
    assert sinabs()(layer, x) == pytest.approx(170)


def test_neurobench_turns_a_layer_into_macs_for_one_graded_value() -> None:
    layer, x = layers()["conv1"]
    graded = x.clone()
    graded[0, 0, 0, 0] = 0.5
    assert neurobench()(graded, layer)[1] is False


def test_neurobench_takes_signed_events_for_accumulates_and_skips_black_pixels() -> None:
    counted = neurobench()
    layer, x = layers()["conv1"]
    assert counted(-x, layer) == (8611, True)
    assert counted(_float(XD[:, 0]), layer)[0] == 18816
    shifted = _float(XD[:, 0]) - 0.25  # the same image after normalisation
    assert counted(shifted, layer)[0] > 1.4 * 18816


def test_neurobench_overflows_in_half_precision() -> None:
    layer = nn.Conv2d(64, 128, 3, padding=1).half()
    with pytest.raises(OverflowError):
        neurobench()(torch.ones(4, 64, 16, 16).half(), layer)


def test_neurobench_does_not_count_transposed_convolutions() -> None:
    layer = nn.ConvTranspose2d(2, 4, 3, stride=2, padding=1, output_padding=1)
    try:
        found = neurobench()(_float(XE[:, 0]), layer)[0]
    except Exception:  # its manager prints this and reports 0
        found = 0
    assert found == 0


def rate_times_flops() -> float:
    """The formula of many papers: mean rate times padded FLOPs times T."""
    total = 0.0
    flops = {"conv1": 4 * 64 * 18, "conv2": 6 * 9 * 36, "fc": 540}
    for name, (_, x) in layers().items():
        total += float(x.mean()) * flops[name] * T
    return total


def test_the_usual_formula_is_off_by_its_padding_and_its_mean_fan_out() -> None:
    assert rate_times_flops() == pytest.approx(11564, abs=0.6)
    assert sum(SOP.values()) == 9844
