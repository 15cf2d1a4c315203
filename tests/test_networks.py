"""Networks: sizes, parameters against other sources, forms against their equations, one step of training."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision
from torch import Tensor, nn

from rsc.errors import UsageError
from rsc.networks import NETWORKS, NetworkSpec, Residual, SpikingSequential, StepBatchNorm2d, build
from rsc.networks.sequential import runs_over_time
from rsc.neurons import LI, LIF

RESIDUAL = ("resnet18", "resnet19", "resnet34", "wideresnet16")
FORMS = [(name, "sew") for name in NETWORKS] + [(name, "ms") for name in RESIDUAL]


def blank(spec: NetworkSpec, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A network without data."""
    with torch.device("meta"):
        return build(spec, shape, classes)


def count(network: nn.Module, *kinds: type[nn.Module]) -> int:
    """Parameters of the layers of some types, of all if none is given."""
    layers = [m for m in network.modules() if isinstance(m, kinds)] if kinds else [network]
    return sum(p.numel() for layer in layers for p in layer.parameters())


@pytest.mark.parametrize("side", [8, 28, 32, 64, 224])
@pytest.mark.parametrize(("name", "form"), FORMS)
def test_every_network_takes_every_size(name: str, form: str, side: int) -> None:
    network = blank(NetworkSpec(name, form=form), (3, side, side), 7)  # type: ignore[arg-type]
    assert network(torch.empty(1, 2, 3, side, side, device="meta")).shape == (1, 2, 7)


@pytest.mark.parametrize("shape", [(2, 9, 14), (1, 130, 200)])
@pytest.mark.parametrize(("name", "form"), [("vgg11", "sew"), ("resnet18", "sew"), ("wideresnet16", "ms")])
def test_sides_may_differ_and_be_odd(name: str, form: str, shape: tuple[int, int, int]) -> None:
    network = blank(NetworkSpec(name, form=form), shape, 7)  # type: ignore[arg-type]
    assert network(torch.empty(1, 2, *shape, device="meta")).shape == (1, 2, 7)


def test_vgg_has_the_parameters_of_the_original() -> None:
    """torchvision's have a bias in each convolution, which a batch norm makes idle; ours leave it out."""
    with torch.device("meta"):
        originals = {"vgg11": torchvision.models.vgg11_bn(), "vgg16": torchvision.models.vgg16_bn()}
    for name, original in originals.items():
        ours = blank(NetworkSpec(name, hidden=(4096, 4096)), (3, 224, 224), 1000)
        biases = sum(m.out_channels for m in original.modules() if isinstance(m, nn.Conv2d))
        assert count(ours) == count(original) - biases


def test_resnets_have_the_parameters_of_the_original() -> None:
    with torch.device("meta"):
        originals = {"resnet18": torchvision.models.resnet18(), "resnet34": torchvision.models.resnet34()}
    for name, original in originals.items():
        sew = blank(NetworkSpec(name), (3, 224, 224), 1000)
        ms = blank(NetworkSpec(name, form="ms"), (3, 224, 224), 1000)
        assert count(sew) == count(original)
        # In place of the pooling the first stage has stride 2, and so a shortcut of 64 x 64 and its norm.
        assert count(ms) == count(original) + 64 * 64 + 2 * 64


@pytest.mark.parametrize("form", ["sew", "ms"])
def test_resnet19_has_the_parameters_of_its_plan(form: str) -> None:
    """Zheng et al.: 128 x 3 blocks, 256 x 3, 512 x 2, a layer of 256; 19 weighted layers, 2 shortcuts."""
    nine = [(3, 128), *[(128, 128)] * 6, (128, 256), *[(256, 256)] * 5, (256, 512), *[(512, 512)] * 3]
    shortcuts = [(128, 256), (256, 512)]
    convs = 9 * sum(a * b for a, b in nine) + sum(a * b for a, b in shortcuts)
    norms = 2 * sum(b for _, b in nine + shortcuts)
    linear = 512 * 256 + 256 + 256 * 10 + 10
    network = blank(NetworkSpec("resnet19", form=form), (3, 32, 32), 10)  # type: ignore[arg-type]
    assert count(network) == convs + norms + linear


@pytest.mark.parametrize("form", ["sew", "ms"])
def test_wideresnet_has_the_parameters_of_the_original(form: str) -> None:
    """WRN-16-4 has 2 748 890 (Zagoruyko and Komodakis say 2.7M); its norms come before the weights."""
    before = (16 + 64) + (64 + 64) + (64 + 128) + (128 + 128) + (128 + 256) + (256 + 256) + 256
    weights = 2_748_890 - 2 * before
    network = blank(NetworkSpec("wideresnet16", width=4, form=form), (3, 32, 32), 10)  # type: ignore[arg-type]
    assert count(network, nn.Conv2d, nn.Linear) == weights
    behind = 16 + 4 * 64 + 4 * 128 + 4 * 256 + 64 + 128 + 256
    assert count(network, nn.BatchNorm2d) == 2 * behind


@pytest.mark.parametrize(("name", "form"), [f for f in FORMS if f[0] != "resnet34"])
def test_the_ann_twin_has_the_same_shape(name: str, form: str) -> None:
    snn, ann = (
        blank(NetworkSpec(name, neuron=neuron, form=form), (3, 32, 32), 10)  # type: ignore[arg-type]
        for neuron in ("lif", "relu")
    )
    assert {k: v.shape for k, v in snn.state_dict().items()} == {
        k: v.shape for k, v in ann.state_dict().items()
    }
    kinds = [[type(m) for m in network.modules() if not list(m.children())] for network in (snn, ann)]
    assert nn.ReLU in kinds[1]
    assert LIF not in kinds[1]
    neurons = sum(isinstance(m, LIF) for m in snn.modules())
    assert neurons == sum(isinstance(m, nn.ReLU) for m in ann.modules()) > 0


@pytest.mark.parametrize(("name", "form"), [("resnet18", "sew"), ("resnet18", "ms")])
def test_a_block_is_the_equation_of_its_paper(name: str, form: str) -> None:
    torch.manual_seed(0)
    spec = NetworkSpec(name, form=form, width=1 / 16)  # type: ignore[arg-type]
    block = build(spec, (3, 8, 8), 10).eval().get_submodule("stage2.block1")
    assert isinstance(block, Residual)
    for part in block.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 1, 2)
    x = torch.rand(4, 2, 4, 8, 8) * 2
    layers = dict(block.named_modules())

    def weighted(which: str, frames: Tensor) -> Tensor:
        body = "body" if which else "shortcut"
        conv, norm = layers[f"{body}.conv{which}"], layers[f"{body}.norm{which}"]
        return torch.stack([norm(conv(frame)) for frame in frames])

    spikes = LIF()
    if form == "sew":
        expected = spikes(weighted("2", spikes(weighted("1", x)))) + spikes(weighted("", x))
    else:
        expected = weighted("2", spikes(weighted("1", spikes(x)))) + weighted("", x)
    torch.testing.assert_close(block(x), expected)
    assert expected.abs().sum() > 0


def tiny(name: str, **fields: object) -> NetworkSpec:
    """A network of few channels."""
    if name in ("mlp", "convnet"):
        return NetworkSpec(name, channels=(8, 8), **fields)  # type: ignore[arg-type]
    width = 0.25 if name == "wideresnet16" else 1 / 16
    return NetworkSpec(name, width=width, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", ["batch", "step"])
@pytest.mark.parametrize(("name", "form"), FORMS)
def test_a_step_of_training_moves_every_parameter(name: str, form: str, norm: str) -> None:
    if name == "mlp" and norm == "step":
        with pytest.raises(UsageError, match="norm"):
            build(tiny(name, norm=norm, steps=2), (3, 8, 8), 10)
        return
    torch.manual_seed(0)
    steps = 2 if norm == "step" else 0
    spec = tiny(name, form=form, norm=norm, steps=steps, v_threshold=0.3)  # low, so that all layers fire
    network = build(spec, (3, 8, 8), 10)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(
                part.weight, 1, 2
            )  # "ms" starts with some at 0, behind which there is no gradient
    before = {k: v.clone() for k, v in network.named_parameters()}
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    logits = network(torch.rand(2, 8, 3, 8, 8) * 2).mean(0)
    nn.functional.cross_entropy(logits, torch.arange(8)).backward()
    optimiser.step()
    still = [k for k, v in network.named_parameters() if torch.equal(v, before[k])]
    assert still == []


def test_stateless_layers_see_all_steps_at_once_and_neurons_each() -> None:
    seen: list[tuple[str, torch.Size]] = []

    class Watch(nn.Module):
        def __init__(self, name: str, over_time: bool) -> None:
            super().__init__()
            self.name, self.over_time = name, over_time

        def forward(self, x: Tensor) -> Tensor:
            seen.append((self.name, x.shape))
            return x

    chain = SpikingSequential(Watch("a", False), LIF(), Watch("b", True), Watch("c", False))
    assert chain(torch.rand(4, 3, 2)).shape == (4, 3, 2)
    assert seen == [("a", (12, 2)), ("b", (4, 3, 2)), ("c", (12, 2))]
    assert runs_over_time(LI())
    assert SpikingSequential()(torch.ones(2, 1, 3)).shape == (2, 1, 3)


def test_a_step_norm_is_one_batch_norm_per_step() -> None:
    torch.manual_seed(0)
    norm, x = StepBatchNorm2d(3, 4), torch.randn(4, 5, 3, 6, 6) * torch.arange(1, 5).view(4, 1, 1, 1, 1)
    out = norm(x)
    flat = x.transpose(1, 2).flatten(2)
    expected = (flat - flat.mean(2, keepdim=True)) / flat.std(2, keepdim=True, unbiased=False)
    torch.testing.assert_close(out.transpose(1, 2).flatten(2), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(norm.eval()(x[:2]), torch.stack([norm.at[t](x[t]) for t in range(2)]))
    with pytest.raises(UsageError, match="time steps"):
        norm(torch.zeros(5, 1, 3, 2, 2))


def test_options_of_the_neurons_arrive() -> None:
    spec = NetworkSpec("vgg5", v_threshold=0.7, reset="subtract", detach_reset=False, decay=0.8, width=0.1)
    network = build(spec, (1, 8, 8), 3)
    neurons = [m for m in network.modules() if isinstance(m, LIF)]
    assert len(neurons) == 4
    for layer in neurons:
        assert (layer.v_threshold, layer.decay) == (0.7, 0.8)
        assert (layer.reset, layer.detach_reset) == ("subtract", False)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(m.weight.tolist() == pytest.approx([0.7] * m.num_features) for m in norms)
    learning = build(NetworkSpec("mlp", learn_decay=True, channels=(4,)), (1, 2, 2), 3)
    assert [k for k, _ in learning.named_parameters() if "leak" in k] == ["2.leak.raw"]
    integrate = build(NetworkSpec("mlp", neuron="if", channels=(4,)), (1, 2, 2), 3)
    assert [m.decay for m in integrate.modules() if isinstance(m, LIF)] == [1.0]


@pytest.mark.parametrize(("readout", "kind"), [("membrane", LI), ("spikes", LIF), ("linear", nn.Linear)])
@pytest.mark.parametrize("name", ["mlp", "convnet", "vgg5", "resnet19"])
def test_the_readout_comes_last(name: str, readout: str, kind: type[nn.Module]) -> None:
    network = blank(NetworkSpec(name, readout=readout), (1, 8, 8), 3)  # type: ignore[arg-type]
    leaves = [m for m in network.modules() if isinstance(m, nn.Linear | LIF | LI)]
    assert type(leaves[-1]) is kind


def test_width_scales_every_channel() -> None:
    convs = [
        m.out_channels
        for m in blank(NetworkSpec("vgg11", width=0.5), (3, 32, 32), 10).modules()
        if isinstance(m, nn.Conv2d)
    ]
    assert convs == [32, 64, 128, 128, 256, 256, 256, 256]
    assert math.isclose(count(blank(NetworkSpec("mlp", channels=(3,)), (1, 2, 2), 2)), 4 * 3 + 3 + 3 * 2 + 2)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"name": "vgg11", "channels": (4, 4)}, "channels"),
        ({"name": "vgg11", "form": "ms"}, "form"),
        ({"name": "mlp", "width": 2.0}, "width"),
        ({"name": "convnet", "hidden": (3,)}, "hidden"),
        ({"name": "convnet", "norm": "step"}, "steps"),
        ({"name": "convnet", "neuron": "relu", "readout": "spikes"}, "readout"),
        ({"name": "convnet", "neuron": "if", "learn_decay": True}, "decay"),
        ({"name": "convnet", "neuron": "rectifier"}, "relu"),
        ({"name": "vgg5", "width": 0.0}, "width"),
        ({"name": "mlp", "channels": (0,)}, "positive"),
    ],
)
def test_what_a_network_does_not_know_is_refused(fields: dict, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        build(NetworkSpec(**fields), (3, 32, 32), 10)


def test_an_image_network_wants_images() -> None:
    with pytest.raises(UsageError, match="images"):
        build(NetworkSpec("vgg5"), (3, 32), 10)
