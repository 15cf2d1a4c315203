"""Networks of other simulators: exported by them, read and run here as they run them; and their importers.

The oracle is the simulator itself, running in the test. Installed by the `peers` extra.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from peers import PEERS, peer
from peers.target import silent
from torch import Tensor, nn

from rsc.export.lint import lint
from rsc.export.reader import read_program
from rsc.hw_targets import deploy
from rsc.presets import PRESETS, preset
from rsc.program import Program, Semantics
from rsc.time_unit import in_seconds

pytestmark = pytest.mark.filterwarnings("ignore")  # of the peers
RATE = np.random.default_rng(5)
VECTORS = ((RATE.random((60, 3, 4)) < 0.4) * 2).astype(np.float32)
IMAGES = (RATE.random((30, 2, 1, 4, 4)) < 0.4).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Exported:
    """A network in its own simulator, the graph that the simulator writes of it, and how it is run there."""

    network: Any
    graph: nir.NIRGraph
    run: Callable[[np.ndarray], Tensor]


def need(name: str) -> None:
    missing = peer(name).available()
    if missing is not None:
        pytest.skip(f"{missing.reason} {missing.fix}")


def grown(*layers: nn.Module) -> Any:
    """Layers in a row with weights that make neurons fire."""
    torch.manual_seed(1)
    for layer in layers:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.reset_parameters()
            layer.weight.data *= 3
    return nn.Sequential(*layers)


def by_step(network: Any) -> Callable[[np.ndarray], Tensor]:
    return lambda x: torch.stack([network(torch.from_numpy(frame)) for frame in x])


def snntorch(kind: str, **settings: Any) -> Exported:
    need("snntorch")
    import snntorch as snn
    from snntorch import utils
    from snntorch.export_nir import export_to_nir

    vectors = {"beta": torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]), "threshold": torch.full((5,), 0.6)}
    synapse = {"alpha": torch.tensor([0.5, 0.6, 0.7, 0.8, 0.3])} if "Synaptic" in kind else {}
    recurrent = {"linear_features": 5} if kind.startswith("R") else {}
    torch.manual_seed(2)
    neuron = getattr(snn, kind)(**vectors, **synapse, **recurrent, **settings, init_hidden=True)
    network = grown(nn.Linear(4, 5), neuron, nn.Linear(5, 2))
    graph = export_to_nir(network, torch.randn(1, 4), ignore_dims=[0])

    def run(x: np.ndarray) -> Tensor:
        utils.reset(network)
        return by_step(network)(x)

    return Exported(network, graph, run)  # type: ignore[arg-type]


def sinabs(layer: str, **settings: Any) -> Exported:
    need("sinabs")
    import sinabs.layers as sl
    from sinabs.nir import to_nir

    neuron = getattr(sl, layer)(batch_size=2, **settings)
    network = grown(
        *(nn.Conv2d(1, 2, 3, padding=1), sl.IAFSqueeze(batch_size=2), sl.SumPool2d(2)),
        *(nn.Flatten(), nn.Linear(8, 3), neuron),
    )
    graph = to_nir(network, torch.zeros(2, 1, 4, 4))
    graph.infer_types()  # type: ignore[attr-defined]  # it leaves the shape of Flatten open

    def run(x: np.ndarray) -> Tensor:
        for module in network.modules():
            if hasattr(module, "reset_states"):
                module.reset_states()
        batched = torch.from_numpy(x).transpose(0, 1)
        return network(batched.flatten(0, 1)).unflatten(0, batched.shape[:2]).transpose(0, 1)

    return Exported(network, graph, run)  # type: ignore[arg-type]


def spikingjelly(neuron: str, dt: float, **settings: Any) -> Exported:
    need("spikingjelly")
    from spikingjelly.activation_based import functional, layer
    from spikingjelly.activation_based import neuron as neurons
    from spikingjelly.activation_based.nir_exchange import export_to_nir

    network = grown(
        *(layer.Conv2d(1, 2, 3, padding=1), getattr(neurons, neuron)(**settings), layer.AvgPool2d(2, 2)),
        *(layer.Flatten(), layer.Linear(8, 3), neurons.IFNode(v_threshold=0.7)),
    )
    graph = export_to_nir(network, torch.randn(1, 1, 4, 4), dt=dt)

    def run(x: np.ndarray) -> Tensor:
        functional.reset_net(network)
        return by_step(network)(x)

    return Exported(network, graph, run)


def norse(dt: float) -> Exported:
    import norse.torch as nt
    from norse.torch.utils.export_nir import to_nir

    lif = nt.LIFBoxParameters(
        tau_mem_inv=torch.tensor([100.0, 150, 200, 250, 300]),
        v_th=torch.full((5,), 0.3),
        v_leak=torch.zeros(5),
    )
    li = nt.LIBoxParameters(tau_mem_inv=torch.full((2,), 150.0), v_leak=torch.zeros(2))
    torch.manual_seed(3)
    layers: list[Any] = [nn.Linear(4, 5), nt.LIFBoxCell(lif, dt=dt), nn.Linear(5, 2), nt.LIBoxCell(li, dt=dt)]
    layers[0].weight.data *= 3
    network: Any = nt.SequentialState(*layers)  # type: ignore[attr-defined]
    graph = to_nir(network, torch.randn(1, 4), dt=dt)

    def run(x: np.ndarray) -> Tensor:
        state, outputs = None, []
        for frame in x:
            y, state = network(torch.from_numpy(frame), state)
            outputs.append(y)
        return torch.stack(outputs)

    return Exported(network, graph, run)  # type: ignore[arg-type]


DELAYED = {"reset_mechanism": "zero"}
# id -> (network, frames, preset, dt, unit of time)
OWN: dict[str, tuple[Callable[[], Exported], np.ndarray, str, float, str]] = {
    "snnTorch Leaky": (lambda: snntorch("Leaky"), VECTORS, "snntorch-subtract", 1e-4, "s"),
    "snnTorch Leaky zero": (lambda: snntorch("Leaky", **DELAYED), VECTORS, "snntorch", 1e-4, "s"),
    "snnTorch Synaptic": (lambda: snntorch("Synaptic"), VECTORS, "snntorch-subtract", 1e-4, "s"),
    "snnTorch Synaptic zero": (lambda: snntorch("Synaptic", **DELAYED), VECTORS, "snntorch-hold", 1e-4, "s"),
    "snnTorch Synaptic zero at once": (
        *(lambda: snntorch("Synaptic", **DELAYED, reset_delay=False), VECTORS, "snntorch", 1e-4, "s"),
    ),
    "snnTorch RLeaky": (lambda: snntorch("RLeaky"), VECTORS, "snntorch-subtract", 1e-4, "s"),
    "snnTorch RLeaky zero": (lambda: snntorch("RLeaky", **DELAYED), VECTORS, "snntorch-hold", 1e-4, "s"),
    "snnTorch RSynaptic": (lambda: snntorch("RSynaptic"), VECTORS, "snntorch-subtract", 1e-4, "s"),
    "snnTorch RSynaptic zero": (
        lambda: snntorch("RSynaptic", **DELAYED),
        VECTORS,
        "snntorch-hold",
        1e-4,
        "s",
    ),
    "Sinabs IAF": (lambda: sinabs("IAFSqueeze"), IMAGES, "sinabs", 1e-3, "steps"),
    "Sinabs LIF": (
        lambda: sinabs(
            "LIFSqueeze",
            tau_mem=torch.tensor([10.0, 20, 40]),
            spike_threshold=torch.full((3,), 0.7),
            norm_input=False,
        ),
        *(IMAGES, "sinabs", 1e-3, "steps"),
    ),
    "Sinabs LIF, norm_input": (
        lambda: sinabs(
            "LIFSqueeze", tau_mem=torch.tensor([2.0, 3, 4]), spike_threshold=torch.full((3,), 0.5)
        ),
        *(IMAGES, "sinabs-norm", 1e-3, "steps"),
    ),
    "Sinabs ExpLeak": (
        *(lambda: sinabs("ExpLeakSqueeze", tau_mem=torch.tensor([10.0, 20, 40])), IMAGES),
        *("sinabs", 1e-3, "steps"),
    ),
    "SpikingJelly LIF": (lambda: spikingjelly("LIFNode", 1e-4), IMAGES, "spikingjelly", 1e-4, "s"),
    "SpikingJelly LIF, other dt": (
        *(
            lambda: spikingjelly("LIFNode", 2e-3, tau=3.0, decay_input=False),
            IMAGES,
            "spikingjelly",
            2e-3,
            "s",
        ),
    ),
    "SpikingJelly PLIF": (lambda: spikingjelly("ParametricLIFNode", 1e-4), IMAGES, "spikingjelly", 1e-4, "s"),
    "SpikingJelly v_reset": (
        *(lambda: spikingjelly("LIFNode", 1e-4, v_reset=-0.25), IMAGES, "spikingjelly", 1e-4, "s"),
    ),
    "SpikingJelly CUBA": (
        lambda: spikingjelly("CUBALIFNode", 1e-4, c_decay=0.5, v_decay=0.75),
        *(IMAGES, "spikingjelly", 1e-4, "s"),
    ),
    "Norse": (lambda: norse(1e-3), VECTORS, "norse", 1e-3, "norse"),
    "Norse, other dt": (lambda: norse(5e-4), VECTORS, "norse", 5e-4, "norse"),
}


@pytest.mark.parametrize("name", OWN)
def test_a_network_runs_here_as_in_the_tool_that_exported_it(name: str, tmp_path: Path) -> None:
    build, frames, rules, dt, unit = OWN[name]
    with silent(), torch.no_grad():
        exported = build()
        expected = exported.run(frames).numpy()
        nir.write(tmp_path / "net.nir", exported.graph)
    program = read_program(tmp_path / "net.nir", semantics=preset(rules, dt))
    program = dataclasses.replace(program, graph=in_seconds(program.graph, unit, dt))
    for target in ("reference", "torch"):
        found = deploy(program, target).run_frames(frames).outputs["output"]
        np.testing.assert_allclose(
            found, expected, rtol=0, atol=1e-5 * max(1.0, float(np.abs(expected).max()))
        )
    assert expected.any()
    silent_neurons = list(deploy(program, "torch").run_frames(frames).spikes.counts.values())
    assert all(count.any() for count in silent_neurons)


def chain(*nodes: Any) -> nir.NIRGraph:
    """input -> n0 -> n1 ... -> output over vectors of four and three."""
    named: dict[str, Any] = {"input": nir.Input({"input": np.array([4])})}
    named |= {f"n{i}": node for i, node in enumerate(nodes)}
    named["output"] = nir.Output({"output": np.array([3])})
    return nir.NIRGraph(named, list(pairwise(named)))


def weights(seed: int, n: int = 4) -> nir.Affine:
    rng = np.random.default_rng(seed)
    weight, bias = rng.normal(size=(3, n)).astype(np.float32), rng.normal(size=3).astype(np.float32) / 8
    return nir.Affine(weight, bias)


def neuron(kind: Any, dt: float, **changes: Any) -> Any:
    """Three neurons with a tau of 10 steps."""
    fields: dict[str, Any] = {"r": 1.0, "v_threshold": 0.11, "v_reset": 0.0}
    if kind is nir.CubaLIF:
        fields |= {"tau_mem": 10 * dt, "tau_syn": 4 * dt, "r": 10.0, "w_in": 4.0, "v_leak": 0.0}
        fields["v_threshold"] = 3.0
    elif kind is nir.LIF:
        fields |= {"tau": 10 * dt, "v_leak": 0.0}
    arrays: Any = {k: np.full(3, v) * np.ones(3) for k, v in (fields | changes).items()}
    return kind(**arrays)


EACH = np.array([0.1, 0.13, 0.17])
DT = 1e-3
# id -> (tool, preset, graph): what the tool's importer makes of a file is what the preset makes of it
READ: dict[str, tuple[str, str, Callable[[], nir.NIRGraph]]] = {
    "norse LIF": ("norse-file", "norse", lambda: chain(weights(1), neuron(nir.LIF, DT))),
    "norse LIF ignores r, resets to 0, starts at v_leak": (
        *("norse-file", "norse"),
        lambda: chain(
            weights(1), neuron(nir.LIF, DT, r=EACH * 30, v_leak=EACH / 4, v_reset=-0.2, v_threshold=EACH)
        ),
    ),
    "norse IF": (
        *("norse-file", "norse"),
        lambda: chain(weights(1), neuron(nir.IF, DT, r=7.0, v_threshold=1 + EACH)),
    ),
    "norse CubaLIF": (
        "norse-file",
        "norse",
        lambda: chain(weights(1), neuron(nir.CubaLIF, DT, v_threshold=EACH)),
    ),
    "snntorch LIF, v_reset": (
        "snntorch",
        "snntorch",
        lambda: chain(weights(1), neuron(nir.LIF, DT, v_reset=-0.3)),
    ),
    "snntorch LIF, r": ("snntorch", "snntorch", lambda: chain(weights(1), neuron(nir.LIF, DT, r=10.0))),
    "snntorch CubaLIF": ("snntorch", "snntorch", lambda: chain(weights(1), neuron(nir.CubaLIF, DT))),
    "sinabs LIF": (
        *("sinabs", "sinabs-import"),
        lambda: chain(weights(1), neuron(nir.LIF, DT, r=5.0, v_threshold=0.7, v_reset=-1.0)),
    ),
    "sinabs IF": (
        *("sinabs", "sinabs-import"),
        lambda: chain(weights(4), neuron(nir.IF, DT, r=5.0, v_threshold=0.7)),
    ),
    "spikingjelly LIF": ("spikingjelly", "spikingjelly", lambda: chain(weights(1), neuron(nir.LIF, DT))),
    "spikingjelly LIF, r and v_leak": (
        *("spikingjelly", "spikingjelly"),
        lambda: chain(weights(1), neuron(nir.LIF, DT, r=10.0, v_leak=0.05, v_reset=0.05, v_threshold=1.1)),
    ),
    "spikingjelly IF": (
        *("spikingjelly", "spikingjelly"),
        lambda: chain(weights(1), neuron(nir.IF, DT, r=1 / DT, v_threshold=1.1)),
    ),
    "spikingjelly CubaLIF": (
        "spikingjelly",
        "spikingjelly",
        lambda: chain(weights(1), neuron(nir.CubaLIF, DT)),
    ),
}


# Where the tool does something else than NIR says, so that the preset is needed.
HABITS = {
    *("norse LIF ignores r, resets to 0, starts at v_leak", "norse IF", "snntorch LIF, v_reset"),
    *("sinabs LIF", "sinabs IF"),
}


@pytest.mark.parametrize("name", READ)
def test_a_preset_does_with_a_file_what_the_importer_does(name: str) -> None:
    tool, rules, build = READ[name]
    need(tool)
    graph = build()
    with torch.no_grad():
        expected = peer(tool).load(graph, DT)(torch.from_numpy(VECTORS)).numpy()
    program = Program(graph, preset(rules, DT))
    found = deploy(program, "torch:float64").run_frames(VECTORS).outputs["output"]
    np.testing.assert_array_equal(found, expected)
    assert expected.mean() > 0
    plain = deploy(Program(graph, Semantics(DT)), "torch:float64").run_frames(VECTORS).outputs["output"]
    assert (name in HABITS) == (not np.array_equal(plain, expected))


def test_presets_of_running_tools_are_all_tried() -> None:
    tried = {rules for _, _, rules, _, _ in OWN.values()} | {rules for _, rules, _ in READ.values()}
    recordings = (Path(__file__).parent / "conformance" / "test_recordings.py").read_text()
    assert all(f'"{name}"' in recordings for name in set(PRESETS) - tried)
    assert {tool for tool, _, _ in READ.values()} == set(PEERS) - {"nirtorch"}


def test_the_batch_axis_and_the_unit_of_norse_are_recognised(tmp_path: Path) -> None:
    nir.write(tmp_path / "net.nir", norse(DT).graph)
    with pytest.warns(UserWarning, match="batch axis, as Norse 1.1.0 writes it"):
        program = read_program(tmp_path / "net.nir", semantics=Semantics(DT))
    assert program.input_shape == (4,)
    findings = [f for f in lint(program) if f.rule == "time-unit"]
    assert {f.node for f in findings} == {"1", "3"}
    assert all("--time-unit norse" in f.fix for f in findings)
    seconds = in_seconds(program.graph, "norse", DT)
    assert not [f for f in lint(Program(seconds, Semantics(DT))) if f.rule == "time-unit"]
    node: Any = seconds.nodes["1"]
    np.testing.assert_allclose(1 / node.tau, [100, 150, 200, 250, 300], rtol=1e-6)


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_the_lost_reset_of_snntorch_is_recognised(reset: str) -> None:
    with silent():
        graph = snntorch("Leaky", reset_mechanism=reset).graph
    findings = [f for f in lint(Program(graph, Semantics(1e-4))) if f.rule == "export-fault"]
    assert len(findings) == 1  # the file is the same for both, which is the fault
    assert "snntorch-subtract" in findings[0].fix
    told = Program(graph, preset("snntorch-subtract", 1e-4))
    assert not [f for f in lint(told, told=True) if f.rule == "export-fault"]


def test_time_in_steps_as_sinabs_writes_it_is_recognised() -> None:
    with silent():
        graph = sinabs(
            "LIFSqueeze", tau_mem=torch.full((3,), 20.0), spike_threshold=torch.full((3,), 0.7)
        ).graph
    integrator, leaky = [f for f in lint(Program(graph, Semantics(DT))) if f.rule == "time-unit"]
    assert "ms or time steps" in leaky.what
    assert "as time steps 20" in leaky.fix
    assert "r is 1" in integrator.what
    assert "--time-unit steps" in integrator.fix
    assert not [
        f for f in lint(Program(in_seconds(graph, "steps", DT), Semantics(DT))) if f.rule == "time-unit"
    ]
