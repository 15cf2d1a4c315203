"""Fine-tuning on Loihi's grid: what a forward pass sees is what the integers hold, and it helps."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.func import functional_call

from rsc import data
from rsc.coding import encode
from rsc.data import Dataset
from rsc.errors import RscError, UsageError
from rsc.export.loihi import lower
from rsc.export.to_nir import to_program
from rsc.hw_targets import deploy
from rsc.layered import LayeredProgram
from rsc.networks import NetworkSpec, SpikingSequential, build
from rsc.neurons import LIF
from rsc.program import Program
from rsc.quantiser import Quantiser
from rsc.results import Keys
from rsc.training import EncoderConfig, TrainConfig, Trained, fit, qat
from rsc.training.qat import FineTuned, Grid, fine_tune

DIGITS = data.load("digits", "train").head(192)
CONFIG = TrainConfig(
    network=NetworkSpec("convnet", (4, 8)),
    encoder=EncoderConfig("rsc2", 4, 0.2),
    batch_size=64,
    lr=5e-3,
    threads=1,
)
MLP = msgspec.structs.replace(CONFIG, network=NetworkSpec("mlp", (24,)))
CONFIGS = {"mlp": MLP, "convnet": CONFIG}


def untrained(config: TrainConfig, network: Any = None, images: Dataset = DIGITS) -> Trained:
    """A network of random weights and random batch norm statistics that fires."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = build(config.network, (1, 8, 8), 10) if network is None else network
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.running_mean is not None
                assert layer.running_var is not None
                for values, low, high in (
                    (layer.running_mean, -0.3, 0.3),
                    (layer.running_var, 0.2, 0.9),
                    (layer.weight.data, 0.5, 2.0),
                    (layer.bias.data, -0.3, 0.5),
                ):
                    values.uniform_(low, high)
    encoder = config.encoder.spec((float(images.images.mean()),), (float(images.images.std()),))
    return Trained(network.eval(), encoder, (), 0.0)


def grid_of(trained: Trained, config: TrainConfig, bits: int) -> Grid:
    """Its grid, with parameters that have moved on since it was calibrated, some beyond its ends."""
    grid = Grid(trained, config, DIGITS, DIGITS.images[:16], bits, "mse")
    generator = torch.Generator().manual_seed(bits)
    with torch.no_grad():
        for layer in grid.network:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                weight = layer.weight
                weight += 0.3 * weight.std() * torch.randn(weight.shape, generator=generator)
                weight.view(-1)[0] = 3 * weight.abs().max()
                weight.view(-1)[1] = -weight.view(-1)[0]
                layer.bias.mul_(0.9)  # type: ignore[union-attr]
    return grid


def program_of(grid: Grid) -> Program:
    """What an export of the parameters that stand there would be."""
    program = to_program(grid.plain, (1, 8, 8), grid.trained.encoder, bounds=(0, 1))
    return dataclasses.replace(program, quantiser=grid.quantiser(lower(program, "float")))


def held(layered: LayeredProgram) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(weight, bias) of each layer in the units of the network, from the integers alone."""
    for layer in layered.layers:
        weight = np.sum([c.weight * 2.0**c.weight_exp for c in layer.connections], 0)
        (first, *_) = layer.connections
        window = math.prod(first.pool[0]) if first.pool else 1
        payload = layered.sources[first.source].scale if first.graded else 1.0
        bias = layer.bias_mant * 2.0**layer.bias_exp / 64 / layer.scale
        yield weight * window * payload / layer.scale, bias.reshape(len(bias), -1)[:, 0]


def arrays(seen: Any) -> list[np.ndarray]:
    return [value.detach().numpy() for value in seen.values()]


@pytest.mark.parametrize("bits", [9, 8, 4, 3])
@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_a_forward_pass_sees_what_the_integers_hold(name: str, bits: int) -> None:
    grid = grid_of(untrained(CONFIGS[name]), CONFIGS[name], bits)
    seen = arrays(grid.view(grid.network))
    layered = lower(program_of(grid), "integer")
    expected = [values for pair in held(layered) for values in pair]
    assert len(seen) == len(expected) == 2 * len(layered.layers)
    for a, b in zip(seen, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-7, atol=0)
    own = [layer.weight for layer in grid.plain if isinstance(layer, nn.Conv2d | nn.Linear)]
    for a, weight in zip(seen[::2], own, strict=True):
        assert 0 < a.flat[0] < weight.detach().numpy().flat[0]  # clipped
        assert len(np.unique(a)) <= 2**bits
    neurons = [layer for layer in grid.network if isinstance(layer, LIF)]
    for neuron, layer in zip(neurons, [x for x in layered.layers if not x.readout], strict=True):
        assert neuron.decay == 1 - layer.dv / 4096
        assert neuron.v_threshold == layer.vth / layer.scale


@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_a_forward_pass_gives_the_logits_of_the_chip(name: str) -> None:
    """All but those of the few samples where a state that is cut to a whole number decides a spike."""
    grid = grid_of(untrained(CONFIGS[name]), CONFIGS[name], 3)
    seen, program = grid.view(grid.network), program_of(grid)
    x = DIGITS.images[:64]
    frames = encode(grid.trained.encoder, x, Keys(1, np.arange(64)))
    with deploy(program, "loihi") as model:
        expected = model.run_frames(frames).logits
    with torch.no_grad():
        ours = functional_call(grid.network, dict(seen), (torch.from_numpy(frames),)).mean(0).numpy()
        plain = grid.plain(torch.from_numpy(frames)).mean(0).numpy()
    same = [np.isclose(got, expected, rtol=1e-4, atol=1e-4).all(1).mean() for got in (ours, plain)]
    assert same[0] > 0.9
    assert same[1] < 0.1


def test_gradients_are_those_of_the_grid_and_zero_where_it_clips() -> None:
    """One step, one image: loss = r . (W2 s + b2), s = [W1 p + b1 > theta], ds/dh = 1 / (1 + (pi h)^2)."""
    config = msgspec.structs.replace(MLP, encoder=EncoderConfig("direct", 1, 0.0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hidden = nn.Linear(64, 3)
        nn.init.normal_(hidden.weight, std=0.3)
        network = SpikingSequential(nn.Flatten(), hidden, LIF(), nn.Linear(3, 2))
    two = dataclasses.replace(DIGITS, labels=("a", "b"))
    grid = Grid(untrained(config, network), config, two, two.images[:16], 4, "max")
    first, second = (layer for layer in grid.plain if isinstance(layer, nn.Linear))
    with torch.no_grad():
        first.weight[1, 20], second.weight[0, 2] = 9.0, -9.0
    frames = encode(grid.trained.encoder, DIGITS.images[:1], Keys(0, np.arange(1)))
    r = np.array([1.5, -0.5])
    out = functional_call(grid.network, dict(grid.view(grid.network)), (torch.from_numpy(frames),))
    (out[0, 0] @ torch.tensor(r, dtype=torch.float32)).backward()

    layered = lower(program_of(grid), "integer")
    (w1, b1), (w2, _) = held(layered)
    (source,), (neurons, _) = layered.inputs, layered.layers
    p = source.payload(frames, "integer").reshape(-1) / source.scale
    above = w1 @ p + b1 - neurons.vth / neurons.scale
    behind = (r @ w2) / (1 + (math.pi * above) ** 2)
    expected = {
        first.weight: np.outer(behind, p),
        first.bias: behind,
        second.weight: np.outer(r, above > 0),
        second.bias: r,
    }
    expected[first.weight][1, 20] = expected[second.weight][0, 2] = 0.0
    for parameter, gradient in expected.items():
        assert parameter.grad is not None
        np.testing.assert_allclose(parameter.grad.numpy(), gradient, rtol=1e-4, atol=1e-6)
    assert (above > 0).any()
    assert p[20] != 0


def test_a_bias_beyond_its_bits_is_clipped_and_has_no_gradient() -> None:
    grid = grid_of(untrained(MLP), MLP, 8)
    most = (4095 << 7) / 64 / grid.scales[0]
    hidden: Any = grid.plain[1]
    with torch.no_grad():
        hidden.bias[:3] = torch.tensor([2 * most, -2 * most, most / 2])
    seen = grid.view(grid.network)["2.bias"]
    seen.sum().backward()
    np.testing.assert_allclose(seen[:3].detach().numpy(), [most, -most, most / 2], rtol=1e-3)
    np.testing.assert_allclose(seen[:2].detach().numpy(), [most, -most], rtol=2e-7)
    assert hidden.bias.grad[:3].tolist() == [0, 0, 1]


@dataclasses.dataclass
class Spy:
    """Stands in for `fit` and keeps what every pass saw, by epoch: parameters and thresholds."""

    epochs: list[list[tuple[list[np.ndarray], tuple[float, ...]]]]

    def __call__(
        self, config: TrainConfig, images: Dataset, on_epoch: Any, *, start: Any, view: Any, alone: bool
    ) -> Trained:
        def seeing(network: nn.Module) -> Any:
            seen = view(network)
            limits = tuple(layer.v_threshold for layer in start if isinstance(layer, LIF))
            self.epochs[-1].append((arrays(seen), limits))
            return seen

        def after(told: Any) -> None:
            self.epochs.append([])
            on_epoch(told)

        return fit(config, images, after, start=start, view=seeing, alone=alone)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    made = Spy([[]])
    monkeypatch.setattr(qat, "fit", made)
    return made


def test_the_last_pass_saw_what_is_deployed(spy: Spy) -> None:
    """With steps too small to move a weight off its grid point."""
    found = fine_tune(untrained(CONFIG), CONFIG, DIGITS, bits=4, epochs=2, lr=1e-9)
    values, limits = spy.epochs[1][-1]
    layered = lower(found.program, "integer")
    for a, b in zip(values, [v for pair in held(layered) for v in pair], strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-7, atol=0)
    assert limits == tuple(x.vth / x.scale for x in layered.layers if not x.readout)


def test_scales_are_chosen_anew_every_epoch_and_then_stay(spy: Spy) -> None:
    found = fine_tune(untrained(CONFIG), CONFIG, DIGITS, bits=4, epochs=3, lr=1e-2)
    limits = [{limits for _, limits in epoch} for epoch in spy.epochs[:3]]
    assert [len(epoch) for epoch in limits] == [1, 1, 1]
    assert len(set.union(*limits)) == 3
    layers = [x for x in lower(found.program, "integer").layers if not x.readout]
    assert limits[2] == {tuple(x.vth / x.scale for x in layers)}


@pytest.fixture(scope="module")
def tuned() -> FineTuned:
    """A convnet with batch norm, fine-tuned at 3 bits."""
    return fine_tune(untrained(CONFIG), CONFIG, DIGITS, bits=3)


def test_the_same_seed_gives_the_same_program(tuned: FineTuned) -> None:
    torch.manual_seed(99)
    again = fine_tune(untrained(CONFIG), CONFIG, DIGITS, bits=3)
    assert again.program.digest == tuned.program.digest
    assert again.rows == tuned.rows


def test_the_network_is_left_alone_and_its_module_takes_the_new_state(tuned: FineTuned) -> None:
    trained = untrained(CONFIG)
    before = copy.deepcopy(trained.network.state_dict())
    fine_tune(trained, CONFIG, DIGITS, bits=3, epochs=1)
    assert all(torch.equal(value, before[key]) for key, value in trained.network.state_dict().items())
    fresh = build(CONFIG.network, (1, 8, 8), 10).eval()
    fresh.load_state_dict(tuned.trained.network.state_dict())
    encoder, labels = tuned.trained.encoder, DIGITS.labels
    program = to_program(fresh, (1, 8, 8), encoder, bounds=DIGITS.bounds, labels=labels)
    assert dataclasses.replace(program, quantiser=tuned.program.quantiser) == tuned.program
    frames = torch.from_numpy(encode(encoder, DIGITS.images[:8], Keys(0, np.arange(8))))
    with deploy(program, "torch") as model, torch.no_grad():
        logits = model.run_frames(frames.numpy()).logits
        np.testing.assert_allclose(fresh(frames).mean(0).numpy(), logits, atol=1e-4)


@pytest.mark.parametrize("bits", [9, 8, 3])
def test_the_float_program_already_holds_the_values_of_the_integers(bits: int) -> None:
    found = fine_tune(untrained(CONFIG), CONFIG, DIGITS, bits=bits, epochs=1)
    exact, integers = lower(found.program, "float"), lower(found.program, "integer")
    for layer, (weight, bias) in zip(exact.layers, held(integers), strict=True):
        window = math.prod(layer.connections[0].pool[0]) if layer.connections[0].pool else 1
        np.testing.assert_allclose(layer.connections[0].weight * window, weight, rtol=2e-7)
        np.testing.assert_allclose(layer.bias_mant.reshape(len(bias), -1)[:, 0], bias, rtol=2e-7)


def test_layers_keep_the_names_of_their_modules() -> None:
    """Scales belong to layers by name: a named chain is exported under its own names."""
    parts = {"f": nn.Flatten(), "fc": nn.Linear(64, 8), "cell": LIF(), "last": nn.Linear(8, 10)}
    found = fine_tune(untrained(MLP, SpikingSequential(OrderedDict(parts))), MLP, DIGITS, bits=4, epochs=1)
    assert found.program.quantiser is not None
    layers = lower(found.program, "integer").layers
    assert [row.layer for row in found.rows] == [layer.name for layer in layers]
    assert [(layer.name, layer.scale) for layer in layers] == [s[:2] for s in found.program.quantiser.scales]
    assert [name for name, _ in found.trained.network.named_children()] == list(parts)


def test_the_table_says_what_rounding_cost_before_and_after(tuned: FineTuned) -> None:
    layers = lower(tuned.program, "integer").layers
    step = Quantiser(3).step
    for row, layer in zip(tuned.rows, layers, strict=True):
        (connection,) = layer.connections
        scale = layer.scale / (lower(tuned.program).inputs[0].scale if connection.graded else 1)
        assert (row.layer, row.scale) == (layer.name, layer.scale)
        assert row.clipped or row.weight_error_max <= (step / 2 + 1e-6) / scale
        assert 0 < row.weight_error_mean <= row.weight_error_max
    firing, readout = tuned.rows[:-1], tuned.rows[-1]
    assert readout.before is readout.disagreement is None
    assert all(row.disagreement < row.before for row in firing if row.before and row.disagreement is not None)
    assert len(tuned.trained.history) == 2


def test_three_bits_win_back_what_rounding_lost() -> None:
    """Held-out digits that only one of the two gets right: far more of the fine-tuned one's (sign test)."""
    config = TrainConfig(
        network=NetworkSpec("convnet", (16, 32)),
        encoder=EncoderConfig("direct", 4, 0.0),
        epochs=10,
        threads=1,
    )
    train, test = data.load("digits", "train"), data.load("digits", "test")
    found = fine_tune(fit(config, train), config, train, bits=3, mode="max", epochs=3, lr=3e-3)
    right = []
    for program in (found.calibrated.program, found.program):
        with deploy(program, "loihi") as model:
            right.append(model.run(test.images, Keys(0, test.ids)).predictions == test.targets)
    lost, won = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    assert stats.binomtest(won, won + lost, alternative="greater").pvalue < 1e-3
    assert right[1].mean() > 0.95


class Recurrent(nn.Module):
    """A network that hears itself."""

    def forward(self, x: Tensor) -> Tensor:
        """Sums over time."""
        return x.cumsum(0).flatten(2)


CONV, FLAT = nn.Conv2d(1, 2, 3, padding=1), (nn.Flatten(), nn.Linear(32, 10))
REFUSED = {
    "a SpikingSequential": Recurrent(),
    "It contains a ReLU": SpikingSequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 10)),
    "It contains a MaxPool2d": SpikingSequential(CONV, LIF(), nn.MaxPool2d(2), *FLAT),
    "subtraction": SpikingSequential(CONV, LIF(reset="subtract"), nn.AvgPool2d(2), *FLAT),
    "as they are": SpikingSequential(CONV, nn.AvgPool2d(2), LIF(), *FLAT),
    "populations": SpikingSequential(
        nn.Flatten(), nn.Linear(64, 4), nn.Linear(4, 8), LIF(), nn.Linear(8, 10)
    ),
    "BatchNorm2d does not follow": SpikingSequential(CONV, LIF(), nn.BatchNorm2d(2), nn.AvgPool2d(2), *FLAT),
}


@pytest.mark.parametrize("words", REFUSED)
def test_other_networks_are_refused_with_the_reason(words: str) -> None:
    with pytest.raises(RscError, match=words):
        fine_tune(untrained(CONFIG, REFUSED[words]), CONFIG, DIGITS)


def test_images_that_change_the_encoder_are_refused() -> None:
    with pytest.raises(UsageError, match="another encoder"):
        fine_tune(untrained(CONFIG), CONFIG, DIGITS.head(64), epochs=1)
