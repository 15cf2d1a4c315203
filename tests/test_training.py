"""Training: repeatable from its seed, learns, refuses nonsense, stops on a loss that is not finite."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from rsc import data
from rsc.errors import InputRefused, MalformedFile, RscError, UsageError
from rsc.networks import NetworkSpec, build
from rsc.training import EncoderConfig, TrainConfig, fit, read_config

CONFIGS = sorted((Path(__file__).parent.parent / "examples" / "configs").glob("*.toml"))


def test_the_same_seed_gives_the_same_network(small_config: TrainConfig) -> None:
    train = data.load("digits", "train").head(200)
    config = msgspec.structs.replace(small_config, epochs=1)
    torch.manual_seed(1)
    first = fit(config, train)
    torch.manual_seed(2)  # the global generator must not matter
    second = fit(config, train)
    other = fit(msgspec.structs.replace(config, seed=1), train)
    for a, b in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert first.history[0].loss == second.history[0].loss
    assert any(
        not torch.equal(a, b)
        for a, b in zip(first.network.parameters(), other.network.parameters(), strict=True)
    )


def test_the_global_generator_is_left_alone(small_config: TrainConfig) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(msgspec.structs.replace(small_config, epochs=1), data.load("digits", "train").head(64))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("neuron", ["lif", "relu"])
@pytest.mark.parametrize("name", ["convnet", "mlp"])
def test_networks_learn(name: str, neuron: str) -> None:
    network = NetworkSpec(name, (8,) if name == "convnet" else (32,), neuron)
    config = TrainConfig(network=network, encoder=EncoderConfig("direct", 2, 0.0), epochs=4, batch_size=128)
    trained = fit(config, data.load("digits", "train"))
    assert trained.history[-1].accuracy > 0.8
    assert trained.history[-1].loss < trained.history[0].loss
    assert not trained.network.training


def test_a_loss_that_is_not_finite_stops(small_config: TrainConfig) -> None:
    config = msgspec.structs.replace(small_config, lr=1e38)
    with pytest.raises(RscError, match=r"epoch 1.*loss"):
        fit(config, data.load("digits", "train"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_shipped_configs_are_valid(path: Path) -> None:
    config = read_config(path)
    assert build(config.network, (1, 8, 8), 10) is not None


@pytest.mark.parametrize(
    ("text", "error", "word"),
    [
        ("epochs = 'many'", MalformedFile, "int"),
        ("[network]\nchanels = [1]", MalformedFile, "channels"),
        ("epochs = 0", UsageError, "epochs"),
        ("lr = -1.0", UsageError, "lr"),
        ("[encoder]\nkind = 'morse'", MalformedFile, "kind"),
        ("not toml", MalformedFile, "valid"),
    ],
)
def test_bad_configs_are_named(text: str, error: type[RscError], word: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(error, match=word):
        read_config(tmp_path / "c.toml")


def test_digits_are_split_without_overlap() -> None:
    train, test = data.load("digits", "train"), data.load("digits", "test")
    assert (len(train), len(test)) == (1297, 500)
    assert not set(train.ids) & set(test.ids)
    assert train.images.min() == 0
    assert train.images.max() == 1


def test_missing_data_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="download=True"):
        data.load("fashion-mnist", "test", tmp_path)
    with pytest.raises(UsageError, match="digits"):
        data.load("digitz", "test")


def test_fashion_mnist_is_read_where_it_is(request: pytest.FixtureRequest) -> None:
    root = request.config.rootpath.parent / "shared" / "data"
    if not root.exists():
        pytest.skip("Fashion-MNIST is not beside the repository")
    test = data.load("fashion-mnist", "test", root)
    assert test.images.shape == (10000, 1, 28, 28)
    assert test.labels[test.targets[0]] == "Ankle boot"


def test_networks_refuse_sizes_they_cannot_take() -> None:
    with pytest.raises(UsageError, match="halves"):
        build(NetworkSpec(channels=(4, 4, 4, 4)), (1, 8, 8), 10)
    with pytest.raises(UsageError, match="no network"):
        build(NetworkSpec("transformer"), (1, 8, 8), 10)
