"""ONNX models of programs: form, metadata, encoder, vote, states, counts; run here by onnxruntime alone."""

from __future__ import annotations

import itertools
from typing import Any

import nir
import numpy as np
import onnx
import onnxruntime
import pytest
from rule_networks import DT, chain, lif, neuron

from rsc.coding import encode, keyed_noise
from rsc.errors import UsageError
from rsc.export.onnx import OPSET, OnnxForm, to_onnx
from rsc.export.onnx_reader import labels, properties
from rsc.hw_targets import deploy
from rsc.program import EncoderSpec, Program, Semantics
from rsc.results import Keys, Probe

RNG = np.random.default_rng(5)
IMAGES = RNG.random((3, 3, 6, 6)).astype(np.float32)
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.25, 0.25)
SPECS = {
    "direct": EncoderSpec("direct", 5),
    "rsc1": EncoderSpec("rsc1", 5, sigma=0.3, clip=(0.0, 1.0)),
    "rsc2": EncoderSpec("rsc2", 5, sigma=0.3, mean=MEAN, std=(0.2, 0.3, 0.4)),
    "rsc2, sigma per step": EncoderSpec("rsc2", 3, step_sigma=(0.1, 0.2, 0.3)),
    "rsc2, normalised first": EncoderSpec(
        "rsc2", 5, sigma=0.2, order=("normalise", "noise", "clip"), mean=MEAN, std=STD, clip=(-1.0, 1.0)
    ),
    "rsc2 on a grid": EncoderSpec("rsc2", 5, sigma=0.2, grid=255, clip=(0.0, 1.0), mean=MEAN, std=STD),
    "bernoulli": EncoderSpec("bernoulli", 5),
    "bernoulli, one coin": EncoderSpec("bernoulli", 5, shared=True, bits=8),
    "signed": EncoderSpec("signed", 5),
}


def convolutional(spec: EncoderSpec | None, classes: int = 4) -> Program:
    weight = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32) / 2
    two: Any = np.array([2, 2])
    nodes = {
        "input": nir.Input({"input": np.array([3, 6, 6])}),
        "conv": nir.Conv2d((6, 6), weight, 1, 1, 1, 1, np.zeros(4, np.float32)),
        "lif": neuron(nir.LIF, 4, 6, 6),
        "pool": nir.SumPool2d(two, two, 0 * two),
        "flat": nir.Flatten({"input": np.array([4, 3, 3])}, 0, -1),
        "last": nir.Linear(RNG.normal(size=(classes, 36)).astype(np.float32) / 3),
        "out": neuron(nir.LIF, classes),
        "output": nir.Output({"output": np.array([classes])}),
    }
    graph = nir.NIRGraph(nodes, list(itertools.pairwise(nodes)), type_check=False)
    return Program(graph, Semantics(DT), spec, (0.0, 1.0), tuple("abcd")[:classes])


def test_a_model_with_states_passes_the_full_check_and_states_the_shapes_of_what_it_gives() -> None:
    model = to_onnx(convolutional(None), OnnxForm(stateful=True))
    onnx.checker.check_model(model, full_check=True)
    given = {v.name: v.type.tensor_type.shape.dim for v in model.graph.output}
    assert [d.dim_param or d.dim_value for d in given["next.v.lif"]] == ["B", 4, 6, 6]
    assert [d.dim_param or d.dim_value for d in given["next.v.out"]] == ["B", 4]


def session(model: onnx.ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    data = model.SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def results(model: onnx.ModelProto, **fed: np.ndarray) -> dict[str, np.ndarray]:
    made = session(model)
    names = [value.name for value in made.get_outputs()]
    return dict(zip(names, made.run(names, fed), strict=True))


@pytest.mark.parametrize("feed", ["frames", "noise", "graph"])
@pytest.mark.parametrize("arithmetic", ["float32", "float64", "float16", "bfloat16", "integer"])
def test_a_model_passes_the_full_check_and_strict_shape_inference(arithmetic: Any, feed: Any) -> None:
    votes = None if feed == "frames" else 3
    model = to_onnx(
        convolutional(SPECS["rsc2"]), OnnxForm(arithmetic, feed, votes, counts=True, outputs=True)
    )
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    assert [(o.domain, o.version) for o in inferred.opset_import] == [("", OPSET)]
    assert not any(tensor.external_data for tensor in model.graph.initializer)


@pytest.mark.parametrize("name", SPECS)
def test_fed_noise_gives_the_frames_of_the_encoder_and_the_spikes_of_the_reference(name: str) -> None:
    program, spec = convolutional(SPECS[name]), SPECS[name]
    keys = Keys(7, np.arange(3))
    with deploy(program, "reference") as judge:
        expected = judge.run(IMAGES, keys, Probe(spikes=frozenset({"lif"})))
    noise = keyed_noise(spec, keys, IMAGES.shape[1:])
    fed = {"image": IMAGES} | ({} if noise is None else {"noise": noise})
    form = OnnxForm("float64", "noise", counts=True, spikes=frozenset({"lif"}))
    found = results(to_onnx(program, form), **fed)
    np.testing.assert_array_equal(found["spikes.lif"], expected.spikes.rasters["lif"])
    np.testing.assert_array_equal(found["logits"], expected.logits)
    for node, count in expected.spikes.counts.items():
        np.testing.assert_array_equal(found[f"counts.{node}"], count)


@pytest.mark.parametrize("name", ["rsc2", "bernoulli", "direct", "rsc2 on a grid"])
def test_a_vote_is_the_majority_of_runs_made_one_by_one(name: str) -> None:
    program, spec = convolutional(SPECS[name]), SPECS[name]
    runs = [Keys(3, np.arange(3), draw=k) for k in range(6)]
    with deploy(program, "reference") as judge:
        each = [judge.run(IMAGES, keys) for keys in runs]
    chosen = np.stack([result.predictions for result in each])
    expected = np.stack([(chosen == k).sum(0) for k in range(4)], 1)
    noise = [keyed_noise(spec, keys, IMAGES.shape[1:]) for keys in runs]
    fed = {"image": IMAGES}
    fed |= {"runs": np.array([6])} if noise[0] is None else {"noise": np.stack(noise)}  # type: ignore[arg-type]
    found = results(to_onnx(program, OnnxForm("float64", "noise", votes=2, counts=True)), **fed)
    np.testing.assert_array_equal(found["votes"], expected)
    np.testing.assert_array_equal(found["prediction"], expected.argmax(1))
    np.testing.assert_allclose(found["logits"], np.mean([r.logits for r in each], 0), atol=1e-12)
    total = sum(result.spikes.counts["lif"] for result in each)
    np.testing.assert_array_equal(found["counts.lif"], total)


def test_noise_drawn_in_the_graph_is_new_in_every_run_and_has_the_law_of_the_encoder() -> None:
    spec = EncoderSpec("rsc2", 50, sigma=0.3)
    plain = nir.NIRGraph(
        {"input": nir.Input({"input": np.array([2, 5])}), "output": nir.Output({"output": np.array([2, 5])})},
        [("input", "output")],
    )
    made = session(to_onnx(Program(plain, Semantics(DT), spec), OnnxForm(feed="graph", outputs=True)))
    image = np.full((40, 2, 5), 0.25, np.float32)
    first, second = (made.run(["outputs.output"], {"image": image})[0] for _ in range(2))
    assert first.shape == (50, 40, 2, 5)
    assert not np.array_equal(first, second)
    z = (np.stack([first, second]) - 0.25) / 0.3
    n = z.size  # 40,000: five standard errors of mean, variance and correlation of neighbouring steps
    assert abs(z.mean()) < 5 / n**0.5
    assert abs(z.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs((z[:, 1:] * z[:, :-1]).mean()) < 5 / n**0.5
    quiet = made.run(["outputs.output"], {"image": image, "sigma": np.array(0.0, np.float32)})[0]
    np.testing.assert_array_equal(quiet, np.full_like(quiet, 0.25))
    assert made.run(["outputs.output"], {"image": image, "steps": np.array([7])})[0].shape[0] == 7


def test_coins_tossed_in_the_graph_land_as_often_as_the_image_says() -> None:
    plain = nir.NIRGraph(
        {"input": nir.Input({"input": np.array([3])}), "output": nir.Output({"output": np.array([3])})},
        [("input", "output")],
    )
    program = Program(plain, Semantics(DT), EncoderSpec("signed", 100))
    made = session(to_onnx(program, OnnxForm(feed="graph", outputs=True)))
    image = np.tile(np.array([0.0, 1.0, -0.3], np.float32), (100, 1))
    (frames,) = made.run(["outputs.output"], {"image": image})
    assert set(np.unique(frames)) == {-1.0, 0.0, 1.0}
    np.testing.assert_array_equal(frames[..., 0], 0)
    np.testing.assert_array_equal(frames[..., 1], 1)
    assert abs(frames[..., 2].mean() + 0.3) < 5 * (0.21 / 10_000) ** 0.5


def test_steps_and_batch_are_free() -> None:
    program = Program(chain(lif()), Semantics(DT))
    made = session(to_onnx(program, OnnxForm("float64", outputs=True)))
    for steps, batch in ((1, 1), (5, 3), (40, 2)):
        frames = np.random.default_rng(0).integers(-8, 9, (steps, batch, 1)).astype(np.float32) / 4
        (found,) = made.run(["outputs.output"], {"frames.input": frames})
        with deploy(program, "reference") as judge:
            np.testing.assert_array_equal(found, judge.run_frames(frames).outputs["output"])


RULES: list[dict[str, Any]] = [
    {"reset": reset, "reset_step": step, "spikes_per_step": many, "clamp": clamp, "comparison": comparison}
    for reset in ("value", "zero", "subtract")
    for step in ("same", "next", "hold", "crossing")
    for many in ("one", "many")
    for clamp in ("none", "all")
    for comparison in (">", ">=")
    if not (reset == "subtract" and step == "hold")
]


def populations(rules: dict[str, Any]) -> Program:
    """IF, LIF, CubaLIF and LI side by side, parameters per neuron; one that leaks and one that does not."""
    wide: dict[str, Any] = {"v_threshold": np.array([0.75, 1.5]), "v_reset": np.array([0.25, -0.5])}
    nodes = {
        "input": nir.Input({"input": np.array([2])}),
        "if": neuron(nir.IF, 2, **wide),
        "lif": neuron(nir.LIF, 2, v_leak=np.array([0.25, 0.5]), **wide),
        "cuba": neuron(nir.CubaLIF, 2, **wide),
        "li": neuron(nir.LI, 2, v_leak=np.array([0.25, 0.0])),
        "output": nir.Output({"output": np.array([2])}),
    }
    edges = [edge for n in ("if", "lif", "cuba", "li") for edge in (("input", n), (n, "output"))]
    return Program(nir.NIRGraph(nodes, edges), Semantics(DT, **rules))


@pytest.mark.parametrize("part", range(4))
def test_every_combination_of_rules_gives_the_spikes_and_states_of_the_reference(part: int) -> None:
    frames = np.random.default_rng(2).integers(-8, 13, (30, 2, 2)).astype(np.float32) / 4
    mixed: list[dict[str, Any]] = [
        {"current": "old"},
        {"v0": "v_leak", "input_gain": "one"},
        {"shift": "spikes"},
    ]
    for i, base in enumerate(RULES[part::4]):
        exact = {"integrator": "exponential"} if base["reset_step"] == "crossing" else {}
        program = populations(base | exact | mixed[i % 3])
        probe = Probe.everything(program.node_names)
        a, b = (deploy(program, on).run_frames(frames, probe) for on in ("reference", "onnxruntime:float64"))
        assert 0.02 < a.spikes.rasters["lif"].mean() < 1
        for name, raster in a.spikes.rasters.items():
            np.testing.assert_array_equal(
                b.spikes.rasters[name], raster, err_msg=f"{name} {program.semantics}"
            )
        for name, states in a.spikes.states.items():
            np.testing.assert_allclose(b.spikes.states[name], states, rtol=0, atol=1e-9, err_msg=name)
        np.testing.assert_allclose(b.outputs["output"], a.outputs["output"], rtol=0, atol=1e-9)


def test_a_stream_in_chunks_goes_on_from_the_states_of_a_plain_session() -> None:
    program = Program(chain(neuron(nir.CubaLIF, 1, v_leak=0.25)), Semantics(DT, v0="v_leak"))
    made = session(to_onnx(program, OnnxForm("float64", outputs=True, stateful=True)))
    frames = np.random.default_rng(1).integers(-8, 9, (12, 2, 1)).astype(np.float32)
    (whole,) = made.run(["outputs.output"], {"frames.input": frames})
    first, v, i = made.run(["outputs.output", "next.v.n", "next.i.n"], {"frames.input": frames[:5]})
    fed = {"frames.input": frames[5:], "state.v.n": v, "state.i.n": i}
    (second,) = made.run(["outputs.output"], fed)
    assert whole.any()
    np.testing.assert_array_equal(np.concatenate([first, second]), whole)


def test_metadata_say_what_a_model_is() -> None:
    program = convolutional(SPECS["rsc2"])
    model = to_onnx(program, OnnxForm("float16", "graph", votes=9))
    found = properties(model)
    again = Program.from_graph(program.to_graph())
    assert found["rsc.digest"] == program.digest
    assert found["rsc.program"] == again.metadata_json().decode()
    assert '"arithmetic":"float16"' in found["rsc.form"]
    assert '"votes":9' in found["rsc.form"]
    assert labels(model) == ("a", "b", "c", "d")


def test_the_same_program_gives_the_same_file() -> None:
    program = convolutional(SPECS["rsc2"])
    first, second = (to_onnx(program, OnnxForm(counts=True)).SerializeToString() for _ in range(2))
    assert first == second


def test_a_file_is_little_larger_than_its_weights() -> None:
    nodes = {
        "input": nir.Input({"input": np.array([784])}),
        "a": nir.Linear(RNG.normal(size=(256, 784)).astype(np.float32)),
        "b": neuron(nir.LIF, 256),
        "c": nir.Linear(RNG.normal(size=(10, 256)).astype(np.float32)),
        "d": neuron(nir.LIF, 10),
        "output": nir.Output({"output": np.array([10])}),
    }
    program = Program(nir.NIRGraph(nodes, list(itertools.pairwise(nodes))), Semantics(DT))
    bytes_of = {"float32": 4, "float16": 2, "bfloat16": 2, "integer": 2}
    for arithmetic, width in bytes_of.items():
        size = to_onnx(program, OnnxForm(arithmetic)).ByteSize()  # type: ignore[arg-type]
        assert size < 1.1 * width * (784 * 256 + 256 * 10), arithmetic


def digits_network() -> Program:
    """Convolutions with 16 and 32 channels and a matrix: 6088 parameters with biases."""

    def conv(n: int, m: int, size: int) -> nir.Conv2d:
        weight, bias = RNG.normal(size=(m, n, 3, 3)), RNG.normal(size=m)
        return nir.Conv2d((size, size), weight.astype(np.float32), 1, 1, 1, 1, bias.astype(np.float32))

    two: Any = np.array([2, 2])
    nodes = {
        "input": nir.Input({"input": np.array([1, 8, 8])}),
        "conv1": conv(1, 16, 8),
        "lif1": neuron(nir.LIF, 16, 8, 8),
        "pool1": nir.AvgPool2d(two, two, 0 * two),
        "conv2": conv(16, 32, 4),
        "lif2": neuron(nir.LIF, 32, 4, 4),
        "pool2": nir.AvgPool2d(two, two, 0 * two),
        "flat": nir.Flatten({"input": np.array([32, 2, 2])}, 0, -1),
        "last": nir.Affine(RNG.normal(size=(10, 128)).astype(np.float32), RNG.normal(size=10)),
        "output": nir.Output({"output": np.array([10])}),
    }
    graph = nir.NIRGraph(nodes, list(itertools.pairwise(nodes)), type_check=False)
    names = tuple("0123456789")
    return Program(graph, Semantics(DT), EncoderSpec("rsc2", 8, sigma=0.35), (0.0, 1.0), names)


def test_even_a_file_of_24_kilobytes_is_little_larger_than_its_weights() -> None:
    parameters = 16 * 9 + 16 + 32 * 16 * 9 + 32 + 1280 + 10
    for feed in ("frames", "noise"):
        size = to_onnx(digits_network(), OnnxForm(feed=feed)).ByteSize()  # type: ignore[arg-type]
        assert size < 1.1 * 4 * parameters, feed


def test_forms_that_make_no_sense_are_refused() -> None:
    program = Program(chain(lif()), Semantics(DT))
    with pytest.raises(UsageError, match="no encoder"):
        to_onnx(program, OnnxForm(feed="noise"))
    with pytest.raises(UsageError, match="votes over at least one"):
        OnnxForm(feed="frames", votes=3)
    with pytest.raises(UsageError, match="stream of frames"):
        OnnxForm(feed="graph", stateful=True)
    with pytest.raises(UsageError, match="asked for its states"):
        to_onnx(program, OnnxForm("integer", stateful=True))


def test_noise_that_is_fed_equals_what_the_encoder_makes_of_it_bit_by_bit() -> None:
    plain = nir.NIRGraph(
        {
            "input": nir.Input({"input": np.array([3, 6, 6])}),
            "output": nir.Output({"output": np.array([3, 6, 6])}),
        },
        [("input", "output")],
    )
    for spec in SPECS.values():
        keys = Keys(11, np.arange(3))
        noise = keyed_noise(spec, keys, (3, 6, 6))
        fed = {"image": IMAGES} | ({} if noise is None else {"noise": noise})
        model = to_onnx(Program(plain, Semantics(DT), spec), OnnxForm(feed="noise", outputs=True))
        np.testing.assert_array_equal(results(model, **fed)["outputs.output"], encode(spec, IMAGES, keys))
