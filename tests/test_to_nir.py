"""Lowering to NIR: the program does what the trained network does, and nir itself can read it."""

from __future__ import annotations

from collections.abc import Callable

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
from rsc.networks import NetworkSpec, SpikingSequential, build
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


def test_a_plain_chain_keeps_its_names_and_its_digest() -> None:
    """Programs of earlier versions are recognised by their digest."""
    network = build(NetworkSpec(channels=(2, 3)), (1, 8, 8), 4).eval()
    for i, value in enumerate(network.state_dict().values()):
        if value.is_floating_point():
            value.copy_((torch.arange(value.numel()) % 7 + i % 3 + 1).view(value.shape) / 8)
    program = to_program(network, (1, 8, 8), EncoderSpec("direct", 2), bounds=(0.0, 1.0))
    names = "input conv1 lif1 pool1 conv2 lif2 pool2 flatten1 affine1 output"
    assert list(program.graph.nodes) == names.split()
    assert program.digest == "b565e59e5ea63c89b7ab6b006c99e3fbf9bd6500714e909715cc10d69f5b5a28"


class Branches(nn.Module):
    """Two branches over time that are subtracted, scaled, pooled and averaged over time."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 4, 5, padding=2, bias=False)
        self.norm, self.spikes, self.more = nn.BatchNorm2d(4), LIF(), LIF(0.25)
        self.gain = nn.Parameter(torch.linspace(0.5, 1.5, 4).view(4, 1, 1))
        self.output = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps, batch = x.shape[:2]
        flat = x.reshape(steps * batch, *x.shape[2:])
        a = self.norm(self.left(flat)) * self.gain
        a = a - 0.5 * self.right(flat)
        spikes = self.spikes(a.unflatten(0, (steps, batch)))
        out = self.more(spikes * 2)
        out += spikes
        out = out + out
        features = nn.functional.adaptive_avg_pool2d(out.flatten(0, 1), 1).flatten(1)
        return self.output(features).view(steps, batch, -1).sum(0)


def test_any_module_of_carried_layers_is_followed() -> None:
    torch.manual_seed(0)
    network, x = Branches().double(), 4 * torch.rand(5, 6, 1, 8, 8, dtype=torch.float64)
    network(x)
    program = to_program(network.eval(), (1, 8, 8), EncoderSpec("direct", 5))
    assert {"left", "right", "spikes", "more", "output_2"} < set(program.graph.nodes)
    assert program.semantics.readout == "sum"
    expected = network(x).detach().numpy()
    for target in ("reference", "torch:float64"):
        with deploy(program, target) as model:
            result = model.run_frames(x.numpy())
        np.testing.assert_allclose(result.logits, expected, atol=1e-12)
        assert all(result.spikes.counts[name].any() for name in ("spikes", "more"))


class Between(nn.Module):
    """Weights, then something, then neurons."""

    def __init__(self, between: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.between, self.weights, self.neurons = between, nn.Linear(6, 6), LIF()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.neurons(self.between(self.weights(x)))


@pytest.mark.parametrize(
    ("between", "word"),
    [
        (torch.relu, "relu"),
        (lambda x: x * x, "not constant"),
        (lambda x: x + 1.0, "constant"),
        (lambda x: x.flip(2), "flip"),
        (lambda x: x.flatten(0, 1), "one axis"),
        (lambda x: torch.cat([x, x], 2), "cat"),
        (lambda x: torch.stack([x[t] for t in range(2)]), "indexed"),
        (lambda x: x.transpose(0, 1), "transpose"),
        (lambda x: x.mean(0), "reduced"),
        (lambda x: x.view(2, 3, 2, 3), "view"),
        (lambda x: torch.zeros_like(x), "followed"),
        (lambda x: x if x.sum() > 0 else -x, "__gt__|sum"),
        (lambda x: nn.functional.dropout(x), "random|evaluation"),
    ],
)
def test_what_stands_between_layers_is_named(
    between: Callable[[torch.Tensor], torch.Tensor], word: str
) -> None:
    with pytest.raises(UnsupportedNode, match=word):
        to_program(Between(between), (6,), EncoderSpec("direct", 2))


def test_writing_into_values_is_refused() -> None:
    def write(x: torch.Tensor) -> torch.Tensor:
        x[..., 0] = 0
        return x

    with pytest.raises(UnsupportedNode, match="set"):
        to_program(Between(write), (6,), EncoderSpec("direct", 2))


def test_a_layer_that_does_something_else_is_not_taken_for_its_base() -> None:
    class Squared(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(input, self.weight**2)

    with pytest.raises(UnsupportedNode, match="linear"):
        to_program(nn.Sequential(Squared(4, 3), LIF()), (4,), EncoderSpec("direct", 2))


def test_weights_heard_before_and_behind_their_norm_are_kept_in_both_forms() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights, self.norm, self.neurons = nn.Linear(6, 6), nn.BatchNorm1d(6), LIF()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a = self.weights(x.flatten(0, 1))
            return self.neurons((a + self.norm(a)).unflatten(0, x.shape[:2]))

    torch.manual_seed(0)
    network, x = Both().double(), 4 * torch.rand(3, 8, 6, dtype=torch.float64)
    network(x)
    program = to_program(network.eval(), (6,), EncoderSpec("direct", 3))
    assert {"weights", "norm", "neurons"} < set(program.graph.nodes)
    with deploy(program, "reference") as model:
        np.testing.assert_array_equal(
            model.run_frames(x.numpy()).outputs["output"], network(x).detach().numpy()
        )


@pytest.mark.parametrize("learn", [False, True])
def test_constants_per_channel_reach_every_neuron(learn: bool) -> None:
    decays, limits = torch.tensor([0.2, 0.5, 0.8]), torch.tensor([0.5, 1.0, 0.25])
    layer = LIF(decays, limits, learn_decay=learn, learn_threshold=learn)
    network = SpikingSequential(nn.Conv2d(1, 3, 3), layer, nn.Flatten(), nn.Linear(12, 2)).eval()
    node = vars(to_program(network, (1, 4, 4), EncoderSpec("direct", 2)).graph.nodes["lif1"])
    expected = np.broadcast_to(np.asarray(decays).reshape(3, 1, 1), (3, 2, 2))
    np.testing.assert_allclose(1 - 1e-3 / node["tau"], expected, rtol=1e-6)
    np.testing.assert_allclose(node["v_threshold"][:, 0, 0], limits, rtol=1e-6)


def test_neurons_with_and_without_leak_in_one_layer_are_refused() -> None:
    network = SpikingSequential(nn.Linear(4, 2), LIF(torch.tensor([0.5, 1.0])))
    with pytest.raises(UnsupportedNode, match="decay 1"):
        to_program(network, (4,), EncoderSpec("direct", 2))


def test_comparisons_ride_in_the_semantics() -> None:
    network = SpikingSequential(nn.Linear(4, 3), LIF(comparison=">="), nn.Linear(3, 2))
    assert to_program(network, (4,), EncoderSpec("direct", 2)).semantics.comparison == ">="
    mixed = SpikingSequential(nn.Linear(4, 3), LIF(comparison=">="), nn.Linear(3, 2), LIF())
    with pytest.raises(UnsupportedNode, match="mixes comparisons"):
        to_program(mixed, (4,), EncoderSpec("direct", 2))


def test_integrate_and_fire_adds_its_input_exactly() -> None:
    """One step of input equal to the threshold does not fire at '>', the smallest more does."""
    network = SpikingSequential(nn.Linear(1, 1, bias=False), LIF(1.0)).double()
    nn.init.ones_(network[0].weight)  # type: ignore[arg-type]
    x = np.array([[[1.0]], [[np.nextafter(0.0, 1)]], [[1.0]]])
    expected = network(torch.tensor(x)).detach().numpy()
    assert expected.ravel().tolist() == [0, 0, 1]
    for dt in (1e-3, 3e-4):
        with deploy(to_program(network, (1,), EncoderSpec("direct", 3), dt=dt), "reference") as model:
            np.testing.assert_array_equal(model.run_frames(x).outputs["output"], expected)


def test_a_wrong_input_shape_is_told() -> None:
    with pytest.raises(UnsupportedNode, match="input_shape") as caught:
        to_program(SpikingSequential(nn.Linear(4, 3), LIF()), (5,), EncoderSpec("direct", 2))
    assert "'0'" in caught.value.what
