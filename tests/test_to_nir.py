"""Lowering to NIR: the program does what the trained network does, and nir itself can read it."""

from __future__ import annotations

import nir
import numpy as np
import pytest
import torch
from torch import nn

from rsc.coding import encode
from rsc.data import Dataset
from rsc.errors import UnsupportedNode
from rsc.export.to_nir import to_program
from rsc.hw_targets import deploy
from rsc.networks import SpikingSequential
from rsc.neurons import LIF
from rsc.pipeline import Packed
from rsc.program import EncoderSpec, Program
from rsc.results import Keys


def test_program_has_the_outputs_of_the_network(packed: Packed, program: Program, digits: Dataset) -> None:
    """The network in float64 (batch norm unfolded) against the numpy interpreter (folded)."""
    frames = encode(program.encoder, digits.images, Keys(0, digits.ids))  # type: ignore[arg-type]
    with deploy(program, "reference") as model:
        result = model.run_frames(frames)
    network = packed.trained.network.double()
    try:
        with torch.inference_mode():
            expected = network(torch.from_numpy(frames).double()).numpy()
    finally:
        network.float()
    np.testing.assert_allclose(result.outputs["output"], expected, atol=1e-4)


def test_batch_norm_is_gone_and_the_file_is_plain_nir(program: Program, tmp_path) -> None:
    kinds = {type(node).__name__ for node in program.graph.nodes.values()}
    assert kinds == {"Input", "Conv2d", "LIF", "AvgPool2d", "Flatten", "Affine", "Output"}
    nir.write(str(tmp_path / "x.nir"), program.to_graph())
    assert set(nir.read(str(tmp_path / "x.nir")).nodes) == set(program.graph.nodes)


def test_exporting_leaves_the_network_as_it_was(packed: Packed, program: Program) -> None:
    before = {k: v.clone() for k, v in packed.trained.network.state_dict().items()}
    again = to_program(
        packed.trained.network, (1, 8, 8), packed.trained.encoder, bounds=(0.0, 1.0), labels=program.labels
    )
    assert again.digest == program.digest
    for key, value in packed.trained.network.state_dict().items():
        assert torch.equal(value, before[key])
        assert value.device.type == "cpu"


def test_time_step_changes_tau_and_nothing_else(packed: Packed, digits: Dataset) -> None:
    outputs = []
    for dt in (1e-3, 1e-4):
        p = to_program(packed.trained.network, (1, 8, 8), packed.trained.encoder, dt=dt, bounds=(0.0, 1.0))
        np.testing.assert_allclose(vars(p.graph.nodes["lif1"])["tau"], 2 * dt)
        with deploy(p, "reference") as model:
            outputs.append(model.run(digits.images, Keys(0, digits.ids)).logits)
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-9)


@pytest.mark.parametrize(
    ("layer", "word"),
    [
        (nn.MaxPool2d(2), "MaxPool2d"),
        (nn.Conv2d(1, 2, 3, padding_mode="reflect", padding=1), "reflect"),
        (nn.AvgPool2d(2, ceil_mode=True), "ceil_mode"),
        (nn.Flatten(2), "Flatten"),
        (nn.BatchNorm2d(1), "BatchNorm2d"),
    ],
)
def test_what_nir_cannot_carry_is_named(layer: nn.Module, word: str) -> None:
    with pytest.raises(UnsupportedNode, match=word):
        to_program(SpikingSequential(layer), (1, 8, 8), EncoderSpec("direct", 2))


def test_reset_rule_rides_in_the_semantics() -> None:
    network = SpikingSequential(nn.Flatten(), nn.Linear(4, 3), LIF(reset="subtract"), nn.Linear(3, 2)).eval()
    assert to_program(network, (1, 2, 2), EncoderSpec("direct", 2)).semantics.reset == "subtract"
    mixed = SpikingSequential(nn.Linear(4, 3), LIF(reset="subtract"), nn.Linear(3, 2), LIF())
    with pytest.raises(UnsupportedNode, match="mixes"):
        to_program(mixed, (4,), EncoderSpec("direct", 2))
