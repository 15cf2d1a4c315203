"""The integer Loihi model and its quantiser, against a scalar transcription of the documented arithmetic."""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsc.data import Dataset
from rsc.errors import UnsupportedNode
from rsc.export import loihi as lowering
from rsc.hw_targets import deploy
from rsc.hw_targets.loihi import LoihiModel
from rsc.hw_targets.loihi_lif import lif_fixed
from rsc.layered import Connection, LayeredProgram
from rsc.program import EncoderSpec, Program, Semantics
from rsc.results import Keys, Probe

UV = 1 << 23


def i32(x: int) -> int:
    """Wrap like a C int32."""
    return (x + (1 << 31)) % (1 << 32) - (1 << 31)


def scalar_lif(a: list[int], du: int, dv: int, vth: int, bias: int) -> list[tuple[int, int, int]]:
    """One neuron in Python integers: (s, u, v) per step."""

    def decay(x: int, d: int) -> int:
        p = x * (4096 - d)
        return (abs(p) >> 12) * (1 if p > 0 else -1)

    u = v = 0
    trace = []
    for current in a:
        x = i32(decay(u, du + 1) + i32(current << 6))
        u = x - 2 * UV if x > UV else x + 2 * UV if x <= -UV else x
        v = max(-UV + 1, min(UV - 1, i32(decay(v, dv) + u + bias)))
        s = int(v > vth << 6)
        v = 0 if s else v
        trace.append((s, u, v))
    return trace


@settings(max_examples=300, deadline=None)
@given(
    a=st.lists(st.integers(-(1 << 26), 1 << 26) | st.integers(-300_000, 300_000), min_size=1, max_size=12)
    | st.lists(st.integers(-131_071, 131_071), min_size=1, max_size=12),
    du=st.integers(0, 4095) | st.just(4095),
    dv=st.integers(0, 4096) | st.sampled_from([0, 2048, 3072, 4095, 4096]),
    vth=st.integers(1, 131071),
    bias=st.integers(-4095, 4095).flatmap(lambda m: st.integers(0, 7).map(lambda e: m << e)),
)
def test_neuron_equals_the_scalar_arithmetic(a: list[int], du: int, dv: int, vth: int, bias: int) -> None:
    rules: dict[str, Any] = {"du": du, "dv": dv, "vth": vth, "bias": torch.tensor([bias], dtype=torch.int32)}
    sums = torch.tensor(a, dtype=torch.int32).reshape(-1, 1, 1)
    trace = lif_fixed(sums, **rules, record=True)
    assert torch.equal(lif_fixed(sums, **rules, record=False).spikes, trace.spikes)  # a way of its own
    assert trace.u is not None
    assert trace.v is not None
    got = list(
        zip(
            trace.spikes.flatten().int().tolist(),
            trace.u.flatten().tolist(),
            trace.v.flatten().tolist(),
            strict=True,
        )
    )
    assert got == scalar_lif(a, du, dv, vth, bias)


def test_network_equals_scalar_arithmetic(program: Program, digits: Dataset) -> None:
    """Synaptic sums by explicit loops over taps, neurons by Python integers, for one image."""
    layered = lowering.lower(program)
    with deploy(program, "loihi") as model:
        probe = Probe.everything(("lif1", "lif2", "affine1"))
        result = model.run(digits.images[:1], Keys(0, digits.ids[:1]), probe)
        from rsc.coding import encode

        frames = encode(program.encoder, digits.images[:1], Keys(0, digits.ids[:1]))  # type: ignore[arg-type]
    (entry,) = layered.inputs
    activity = {"input": entry.payload(frames, "integer")[:, 0]}
    for layer in layered.layers:
        (connection,) = layer.connections
        source = activity[connection.source].astype(np.int64)
        sums = np.stack([taps(connection, frame) for frame in source]).reshape(len(source), -1)
        bias = (layer.bias_mant.astype(np.int64) << layer.bias_exp).ravel()
        spikes = np.zeros_like(sums)
        for site in range(sums.shape[1]):
            trace = scalar_lif(
                sums[:, site].tolist(), int(layer.du), int(layer.dv), int(layer.vth), int(bias[site])
            )
            spikes[:, site] = [s for s, _, _ in trace]
            got_v = result.spikes.states[f"{layer.name}.v"][:, 0].reshape(len(source), -1)[:, site]
            got_u = result.spikes.states[f"{layer.name}.u"][:, 0].reshape(len(source), -1)[:, site]
            assert got_v.tolist() == [v for _, _, v in trace]
            assert got_u.tolist() == [u for _, u, _ in trace]
        activity[layer.name] = spikes.reshape(len(source), *layer.shape)


def taps(c: Connection, x: np.ndarray) -> np.ndarray:
    """Weighted sums of one frame, tap by tap."""
    if c.pool:
        (kh, kw), (sh, sw) = c.pool
        height, width = (x.shape[1] - kh) // sh + 1, (x.shape[2] - kw) // sw + 1
        x = np.sum(
            [x[:, i : i + sh * height : sh, j : j + sw * width : sw] for i in range(kh) for j in range(kw)],
            axis=0,
        )
    if c.kind == "dense":
        return c.weight.astype(np.int64) @ x.ravel()
    (ph, pw), (sh, sw) = c.padding, c.stride
    padded = np.pad(x, ((0, 0), (ph, ph), (pw, pw)))
    co, _, kh, kw = c.weight.shape
    height, width = (padded.shape[1] - kh) // sh + 1, (padded.shape[2] - kw) // sw + 1
    out = np.zeros((co, height, width), np.int64)
    for y in range(height):
        for z in range(width):
            patch = padded[:, y * sh : y * sh + kh, z * sw : z * sw + kw]
            out[:, y, z] = (c.weight.astype(np.int64) * patch).sum((1, 2, 3))
    return out


def test_quantised_numbers_stay_on_the_grid(program: Program) -> None:
    layered = lowering.lower(program)
    for layer in layered.layers:
        for c in layer.connections:
            assert c.weight.min() >= -256
            assert c.weight.max() <= 254
            assert not (c.weight % 2).any()
        assert 0 < layer.vth <= 131071
        assert np.abs(layer.bias_mant).max() <= 4095
        assert 0 <= layer.bias_exp <= 7


def test_quantisation_error_is_at_most_one_grid_step(program: Program) -> None:
    for row in lowering.quantisation_table(lowering.lower(program, "float"), lowering.lower(program)):
        assert row.weight_error_max <= 1.01 * row.weight_largest / max(abs(row.weight_min), row.weight_max)


def test_lowered_form_survives_its_file(program: Program, tmp_path) -> None:
    for arithmetic in ("integer", "float"):
        layered = lowering.lower(program, arithmetic)
        (tmp_path / "x.npz").write_bytes(layered.to_bytes())
        again = LayeredProgram.load(tmp_path / "x.npz")
        assert again.digest == layered.digest
        assert [la.name for la in again.layers] == [la.name for la in layered.layers]


def test_batch_and_chunks_do_not_matter(program: Program, digits: Dataset, monkeypatch) -> None:
    with deploy(program, "loihi") as model:
        whole = model.run(digits.images, Keys(0, digits.ids))
        monkeypatch.setattr("rsc.hw_targets.loihi._CHUNK_VALUES", 3000)
        chunked = model.run(digits.images, Keys(0, digits.ids))
        alone = model.run(digits.images[5:6], Keys(0, digits.ids[5:6]))
    np.testing.assert_array_equal(whole.logits, chunked.logits)
    np.testing.assert_array_equal(whole.logits[5:6], alone.logits)


def test_sums_beyond_float32_are_exact() -> None:
    """A wide dense layer with large payloads must switch to float64."""
    weight = np.full((1, 600), 0.9, np.float32)
    weight[0, 0] = 1.0
    graph = nir.NIRGraph(
        {
            "input": nir.Input({"input": np.array([600])}),
            "fc": nir.Affine(weight, np.zeros(1, np.float32)),
            "output": nir.Output({"output": np.array([1])}),
        },
        [("input", "fc"), ("fc", "output")],
    )
    p = Program(graph, Semantics(dt=1e-3), EncoderSpec("direct", 1), (0.0, 1.0))
    layered = lowering.lower(p)
    model = LoihiModel(p, layered, torch.device("cpu"))
    x = np.linspace(0, 1, 600, dtype=np.float32)[None]
    state = model.run(x, Keys(0, np.array([0])), Probe.everything(("fc",))).spikes.states["fc.u"]
    (c,) = layered.layers[0].connections
    assert state.ravel().tolist() == [
        int(c.weight[0].astype(np.int64) @ layered.inputs[0].payload(x, "integer")[0]) << 6
    ]


def lif(**changes: Any) -> Program:
    """Two inputs, a matrix of ones, three neurons."""
    fields = {
        "tau": [2e-3] * 3,
        "r": [2.0] * 3,
        "v_leak": [0.0] * 3,
        "v_threshold": [1.0] * 3,
        "v_reset": [0.0] * 3,
    }
    changed: Any = {k: np.array(v, float) for k, v in (fields | changes).items()}
    graph = nir.NIRGraph(
        {
            "input": nir.Input({"input": np.array([2])}),
            "fc": nir.Affine(np.ones((3, 2)), np.zeros(3)),
            "lif": nir.LIF(**changed),
            "output": nir.Output({"output": np.array([3])}),
        },
        [("input", "fc"), ("fc", "lif"), ("lif", "output")],
    )
    return Program(graph, Semantics(dt=1e-3))


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [("tau", [5e-4] * 3, "decay"), ("v_threshold", [-1.0] * 3, "does not fit")],
)
def test_what_loihi_cannot_hold_is_refused(field: str, value: list[float], word: str) -> None:
    p = lif(**{field: value})
    (issue,) = [i for i in lowering.check(p) if i.severity == "error"]
    assert word in issue.what
    with pytest.raises(UnsupportedNode, match=word):
        deploy(p, "loihi")


def test_parameters_per_neuron_and_reset_values_become_integers() -> None:
    """v' = v - v_reset starts at -v_reset; S is 127: two weights of 254 must not pass 2^17, and do not."""
    p = lif(tau=[2e-3, 4e-3, 8e-3], v_reset=[-0.5, 0.0, 0.25], v_threshold=[1.0, 1.5, 2.0])
    (layer,) = lowering.lower(p).layers
    gain = np.array([1.0, 0.5, 0.25])  # r dt/tau
    exact = lowering.lower(p, "float").layers[0]
    np.testing.assert_allclose(exact.connections[0].weight, np.tile(gain[:, None], 2))
    assert layer.scale == 254.0
    assert layer.connections[0].weight.tolist() == [[254, 254], [128, 128], [64, 64]]  # even, halves to even
    assert layer.dv.tolist() == [2048, 1024, 512]
    assert layer.vth.tolist() == [round(254 * 1.5), 254 * 1.5, round(254 * 1.75)]
    assert layer.v_init.tolist() == [64 * 254 * 0.5, 0, -64 * 254 * 0.25]
    unit = 2.0**layer.bias_exp / (64 * 254)
    np.testing.assert_allclose(layer.bias_mant * unit, [0.25, 0, -0.03125], atol=unit)
    assert layer.offset.tolist() == [-0.5, 0, 0.25]


def test_connections_of_unlike_size_keep_their_bits() -> None:
    """A power of two is taken out of the larger one, as both add to one current."""
    nodes: dict[str, Any] = {
        "input": nir.Input({"input": np.array([2])}),
        "a": nir.Linear(np.array([[1.0, -0.5]])),
        "n": nir.IF(*(np.array([v]) for v in (1e3, 1.0))),
        "back": nir.Linear(np.array([[8.0]])),
        "output": nir.Output({"output": np.array([1])}),
    }
    edges = [("input", "a"), ("a", "n"), ("n", "back"), ("back", "n"), ("n", "output")]
    p = Program(nir.NIRGraph(nodes, edges), Semantics(1e-3))
    (layer,) = lowering.lower(p).layers
    found = {c.source: (c.weight.ravel().tolist(), c.weight_exp) for c in layer.connections}
    assert layer.scale == 254.0
    assert found == {"input": ([254, -128], 0), "n": ([254], 3)}
