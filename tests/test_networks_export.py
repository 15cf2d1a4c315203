"""Every network, trained one step, through a NIR file: the same spikes as the module, in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rsc.errors import UnsupportedNode
from rsc.export.loihi import lower
from rsc.export.reader import read_program
from rsc.export.to_nir import to_program
from rsc.export.writer import write_program
from rsc.hw_targets import deploy
from rsc.networks import NETWORKS, NetworkSpec, SpikingSequential, StepBatchNorm2d, build
from rsc.neurons import LIF
from rsc.program import EncoderSpec, Program
from rsc.results import Probe

STEPS, SHAPE = 4, (3, 8, 8)
ENCODER = EncoderSpec("direct", STEPS)
RESIDUAL = ("resnet18", "resnet19", "resnet34", "wideresnet16")
FORMS = [(name, "sew") for name in NETWORKS] + [(name, "ms") for name in RESIDUAL]


def spec(name: str, form: str = "sew", **fields: object) -> NetworkSpec:
    """A network of few channels."""
    if name in ("mlp", "convnet"):
        return NetworkSpec(name, channels=(8, 12), **fields)  # type: ignore[arg-type]
    width = 0.25 if name == "wideresnet16" else 1 / 16
    return NetworkSpec(name, form=form, width=width, **fields)  # type: ignore[arg-type]


def trained(which: NetworkSpec) -> SpikingSequential:
    """A network in float64 after one step, in eval mode, in which every layer fires."""
    torch.manual_seed(0)
    network = build(which, SHAPE, 10).double()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0  # the statistics of the one batch
            nn.init.uniform_(layer.weight, 0.8, 1.6)
            nn.init.uniform_(layer.bias, 0.0, 0.6)
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.1, 0.5)
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3)
    nn.functional.cross_entropy(network(frames()).mean(0), torch.arange(5)).backward()
    optimiser.step()
    return network.eval()


def frames() -> torch.Tensor:
    """[T, B, C, H, W], float64."""
    generator = torch.Generator().manual_seed(1)
    return 2 * torch.rand(STEPS, 5, *SHAPE, dtype=torch.float64, generator=generator)


def recorded(network: nn.Module) -> tuple[list[np.ndarray], np.ndarray]:
    """Spikes of each layer of neurons in the order of the calls, and the outputs."""
    spikes: list[np.ndarray] = []
    hooks = [
        layer.register_forward_hook(lambda m, i, out: spikes.append(out.numpy() > 0))
        for layer in network.modules()
        if isinstance(layer, LIF)
    ]
    with torch.no_grad():
        outputs = network(frames()).numpy()
    for hook in hooks:
        hook.remove()
    return spikes, outputs


def neurons(program: Program) -> list[str]:
    """Names of the spiking nodes, in the order in which they were noted."""
    return [k for k, node in program.graph.nodes.items() if type(node).__name__ in ("LIF", "IF")]


def check(network: nn.Module, program: Program, order: list[str], target: str) -> None:
    """All spikes are those of the module, and each layer has some."""
    expected, outputs = recorded(network)
    with deploy(program, target) as model:
        result = model.run_frames(frames().numpy(), probe=Probe(spikes=frozenset(order)))
    assert len(order) == len(expected)
    for name, spikes in zip(order, expected, strict=True):
        np.testing.assert_array_equal(result.spikes.rasters[name], spikes, err_msg=name)
        assert spikes.any(), name
    np.testing.assert_allclose(result.outputs["output"], outputs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_a_file_has_the_spikes_of_the_module(name: str, form: str, tmp_path: Path) -> None:
    network = trained(spec(name, form))
    program = to_program(network, SHAPE, ENCODER)
    write_program(program, tmp_path / "x.nir")
    read = read_program(tmp_path / "x.nir", verified=True)
    assert read.digest == program.digest
    order = neurons(program)
    check(network, read, order, "torch:float64")
    if name not in ("resnet19", "resnet34", "vgg16"):
        check(network, read, order, "reference")


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("vgg5", {"reset": "subtract", "v_threshold": 0.7, "decay": 0.8}),
        ("vgg5", {"neuron": "if", "norm": "none", "v_threshold": 0.1}),
        ("resnet18", {"form": "ms", "readout": "spikes", "learn_decay": True}),
        ("convnet", {"readout": "membrane"}),
    ],
)
def test_options_of_the_neurons_are_exported(name: str, fields: dict) -> None:
    network = trained(spec(name, **fields))
    program = to_program(network, SHAPE, ENCODER)
    assert program.semantics.reset == fields.get("reset", "value")
    check(network, program, neurons(program), "torch:float64")


@pytest.mark.parametrize("name", ["convnet", "vgg9", "resnet18"])
def test_norms_per_step_are_exported_where_all_steps_agree(name: str) -> None:
    network = trained(spec(name, norm="step", steps=STEPS))
    with pytest.raises(UnsupportedNode, match="every step"):
        to_program(network, SHAPE, ENCODER)
    for layer in network.modules():
        if isinstance(layer, StepBatchNorm2d):
            for norm in layer.at:
                norm.load_state_dict(layer.at[-1].state_dict())
    program = to_program(network, SHAPE, ENCODER)
    check(network, program, neurons(program), "torch:float64")


@pytest.mark.parametrize("name", NETWORKS)
def test_an_ann_is_no_program(name: str) -> None:
    network = build(spec(name, neuron="relu"), SHAPE, 10).eval()
    with pytest.raises(UnsupportedNode, match=r"ReLU.*spiking neurons"):
        to_program(network, SHAPE, ENCODER)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_lowers_to_loihi_with_a_layer_per_population(name: str) -> None:
    program = to_program(trained(spec(name)), SHAPE, ENCODER)
    layered = lower(program)
    assert [layer.name for layer in layered.layers if not layer.readout] == [
        name for name in (layer.name for layer in layered.layers) if name in neurons(program)
    ]
    assert len(layered.layers) == len(neurons(program)) + 1


@pytest.mark.parametrize("name", RESIDUAL)
def test_membrane_shortcuts_lower_to_loihi_where_they_are_small(name: str) -> None:
    """Their ways from population to population are long: convolutions in a row, each time one kernel."""
    small = NetworkSpec(name, form="ms", width=0.25 if name == "wideresnet16" else 1 / 64)
    program = to_program(build(small, (1, 4, 4), 3).eval(), (1, 4, 4), ENCODER)
    assert len(lower(program).layers) == len(neurons(program)) + 1


def test_membrane_shortcuts_lower_to_loihi_where_matrices_would_be_too_large() -> None:
    """Written out, a way from the first stage would have 16,384 columns and as many rows."""
    spec = NetworkSpec("resnet18", form="ms", width=0.25)
    program = to_program(build(spec, (3, 32, 32), 3).eval(), (3, 32, 32), ENCODER)
    layered = lower(program)
    assert len(layered.layers) == len(neurons(program)) + 1
    dense = [c for layer in layered.layers for c in layer.connections if c.kind == "dense"]
    assert [c.weight.shape for c in dense] == [(3, 128)], "the classifier alone"


def test_nodes_are_named_by_the_path_of_their_module() -> None:
    network = build(spec("resnet18"), SHAPE, 10).eval()
    program = to_program(network, SHAPE, ENCODER)
    modules = dict(network.named_modules())
    for name in set(program.graph.nodes) - {"input", "output"}:
        assert name in {path.replace(".", "_") for path in modules}
    assert "stage2_block1_shortcut_conv" in program.graph.nodes
    into = {a for a, b in program.graph.edges if b == "stage2_block2_body_conv1"}
    assert into == {"stage2_block1_body_neuron2", "stage2_block1_shortcut_neuron"}
