"""The quick ways of the integer Loihi model (tiles, bytes, floating-point scans) give the same integers."""

from __future__ import annotations

import dataclasses
from typing import Any

import lava_listing
import numpy as np
import pytest
import torch
from lava_networks import Kit, frames, grid, lif, network, program, random_program
from torch import Tensor

from rsc.hw_targets import loihi_drive, loihi_scan, loihi_tiles
from rsc.hw_targets.base import StepsResult
from rsc.hw_targets.loihi import LoihiModel
from rsc.hw_targets.loihi_drive import Activity, Drive, stored
from rsc.hw_targets.loihi_lif import UV, Neurons
from rsc.hw_targets.loihi_scan import Scan, _Decay
from rsc.hw_targets.loihi_synapses import Synapses
from rsc.hw_targets.loihi_tiles import is_prompt
from rsc.layered import Connection, LayeredProgram
from rsc.results import Probe

CPU = torch.device("cpu")


def steps(layered: LayeredProgram, fed: dict[str, np.ndarray]) -> StepsResult:
    names = [layer.name for layer in layered.layers]
    return LoihiModel(None, layered, CPU)._steps(fed, Probe.everything(names))


def assert_equal_to_listing(layered: LayeredProgram, fed: dict[str, np.ndarray]) -> None:
    """Spikes, counts, u and v of all layers equal the transcription of Lava's arithmetic."""
    found = steps(layered, fed).spikes
    traces = lava_listing.run(layered, lava_listing.payloads(layered, fed))
    for layer in layered.layers:
        trace, name = traces[layer.name], layer.name
        np.testing.assert_array_equal(found.rasters[name], trace.s, name)
        np.testing.assert_array_equal(found.states[f"{name}.u"], trace.u, name)
        np.testing.assert_array_equal(found.states[f"{name}.v"], trace.v, name)
        if not layer.readout:
            np.testing.assert_array_equal(found.counts[name], trace.s.sum(0), name)


def prompt(layered: LayeredProgram) -> LayeredProgram:
    """The program without the delays and the synapses that lead back."""
    order = [layer.name for layer in layered.layers]
    layers = []
    for i, layer in enumerate(layered.layers):
        kept = [c for c in layer.connections if c.source not in order[i:]]
        kept = [dataclasses.replace(c, delay=np.zeros((), np.int32)) for c in kept]
        layers.append(dataclasses.replace(layer, connections=tuple(kept)))
    return dataclasses.replace(layered, layers=tuple(layers))


def test_random_programs_in_tiles_of_any_size_equal_the_listing(monkeypatch: pytest.MonkeyPatch):
    """70 programs, in tiles of one step and one sample up to all of them; each way is met."""
    met: dict[str, int] = dict.fromkeys(("integers", "clipped", "bytes"), 0)

    def noted(key: str, function: Any) -> Any:
        def called(*args: Any) -> Any:
            met[key] += 1
            return function(*args)

        return called

    monkeypatch.setattr(Scan, "run_integers", noted("integers", Scan.run_integers))
    monkeypatch.setattr(loihi_scan, "_clip", noted("clipped", loihi_scan._clip))
    monkeypatch.setattr(loihi_drive._Bytes, "product", noted("bytes", loihi_drive._Bytes.product))
    for seed in range(70):
        rng = np.random.default_rng(seed)
        layered = prompt(random_program(rng))
        assert is_prompt(layered)
        monkeypatch.setattr(loihi_tiles, "TILE_BYTES", int(rng.choice([1, 100, 400, 1 << 20])))
        monkeypatch.setattr(loihi_tiles, "FEWEST_STEPS", int(rng.integers(1, 5)))
        assert_equal_to_listing(layered, frames(layered, rng, int(rng.integers(1, 12)), 3))
    assert min(met.values()) >= 20, met


@pytest.mark.parametrize("name", ["chain", "parameters per neuron", "skip connections", "leaky readout"])
def test_tiles_do_not_change_results(name: str, monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(1)
    layered = network(name, rng)
    fed = frames(layered, rng, 11, 5)
    whole = steps(layered, fed)
    monkeypatch.setattr(loihi_tiles, "TILE_BYTES", 300)
    tiled = steps(layered, fed)
    tiles = LoihiModel(None, layered, CPU)._tiles
    assert tiles is not None
    samples, span = tiles.tile(11, 5)
    assert samples < 5
    assert span < 11
    assert tiled.saturated == whole.saturated
    for kind in ("counts", "rasters", "states"):
        for key, values in getattr(whole.spikes, kind).items():
            np.testing.assert_array_equal(getattr(tiled.spikes, kind)[key], values)
    for key, values in whole.outputs.items():
        np.testing.assert_array_equal(tiled.outputs[key], values)


def test_decays_are_exact():
    """A third of all decays, at the ends of the range and where 4096 nearly divides the product."""
    rng = np.random.default_rng(2)
    for d in [*range(0, 4097, 3), 1, 2048, 3584, 4094, 4095]:
        keep = 4096 - d
        v = np.concatenate([[0, 1, UV - 1, 2 * UV - 1], rng.integers(0, 2 * UV, 60)])
        if keep:
            near = rng.integers(1, UV * keep // 4096 + 1, 60) * 4096 // keep
            v = np.concatenate([v, near, near + 1, near - 1])
        v = np.concatenate([v, -v])
        expected = np.sign(v) * (np.abs(v) * keep >> 12)
        x = torch.from_numpy(v).float()
        for decay in (d, torch.full(x.shape, d, dtype=torch.int32)):
            rule = _Decay.of(decay, 0, torch.empty(x.shape, dtype=torch.float64))
            found = rule.plus(x, torch.zeros_like(x), torch.empty_like(x))
            assert found.tolist() == expected.tolist(), d


def scalar_steps(a: np.ndarray, du: int, dv: int, vth: int, bias: int, v: int) -> np.ndarray:
    """Spikes of neurons in int64, clipped, with u inside 24 bits; a: [T, N]."""
    u, v_now, fired = np.zeros_like(a[0]), np.full_like(a[0], v), []

    def decay(x: np.ndarray, d: int) -> np.ndarray:
        return np.sign(x) * (np.abs(x) * (4096 - d) >> 12)

    for now in a:
        u = decay(u, du + 1) + 64 * now
        assert np.abs(u).max() < UV
        v_now = np.clip(decay(v_now, dv) + u + bias, 1 - UV, UV - 1)
        fired.append(v_now > vth << 6)
        v_now = np.where(fired[-1], 0, v_now)
    return np.stack(fired)


@pytest.mark.parametrize("du", [4095, 4000, 3071])
@pytest.mark.parametrize("dv", [0, 1, 200, 2048, 3072, 4095, 4096])
@pytest.mark.parametrize("most", [30, 3000, 100_000])
def test_a_scan_in_pieces_equals_integers(du: int, dv: int, most: int):
    """From few to all neurons clipped; the second piece goes on from the state of the first."""
    rng = np.random.default_rng(3)
    for vth, bias, v in ((most // 3 + 1, 0, 0), (131071, 4095, -5_000_000), (0, -77, 8_000_000)):
        a = rng.integers(-most, most + 1, (30, 50))
        if vth == 131071:
            a = -np.abs(a)
        if du < 4095 and 64 * most * 4096 >= UV * (du + 1):
            continue  # u would wrap: the integers' own tests
        scan = Scan(Neurons(du, dv, vth, torch.tensor([bias], dtype=torch.int32), v), (50,))
        state, pieces = scan.initial(1), []
        for part in np.split(a, [7, 8]):
            x = torch.from_numpy(64 * part).float()[:, None]
            trace, state = scan.run(x, -most, most, state, False)
            pieces.append(trace.spikes[:, 0])
        np.testing.assert_array_equal(torch.cat(pieces), scalar_steps(a, du, dv, vth, bias, v))


SYNAPSES = {
    "conv": Connection("x", "conv", np.zeros((5, 3, 3, 3)), (3, 8, 7), padding=(1, 1)),
    "strided": Connection("x", "conv", np.zeros((4, 1, 3, 2)), (1, 8, 7), stride=(2, 1), padding=(0, 1)),
    "groups": Connection("x", "conv", np.zeros((6, 2, 2, 2)), (4, 8, 7), groups=2, dilation=(2, 1)),
    "pooled": Connection("x", "conv", np.zeros((5, 3, 2, 2)), (3, 8, 7), pool=((2, 2), (2, 2))),
    "dense": Connection("x", "dense", np.zeros((9, 24)), (24,)),
    "dense on an image": Connection("x", "dense", np.zeros((6, 3 * 8 * 7)), (3, 8, 7)),
    "dense, negative exponent": Connection("x", "dense", np.zeros((9, 24)), (24,), -3),
    "dense, pooled": Connection("x", "dense", np.zeros((9, 3 * 4 * 3)), (3, 8, 7), 2, ((2, 2), (2, 2))),
}


def drive_of(c: Connection, largest: int) -> Drive:
    shape = lava_listing.current(c, np.zeros(c.source_shape), (len(c.weight),), True).shape
    shape = (3, 1, 3) if c.kind == "dense" and len(c.weight) == 9 else shape
    return Drive(Synapses(c, largest, shape, CPU), len(c.source_shape) == 3)


def sent(c: Connection, values: np.ndarray) -> Tensor:
    """Values [T, B, ...] as they lie in memory."""
    return stored(torch.from_numpy(values), 2)


@pytest.mark.parametrize("name", SYNAPSES)
@pytest.mark.parametrize("most", [1, 31])
@pytest.mark.parametrize("weights", ["even", "extreme", "odd", "wide"])
def test_sums_equal_integers(name: str, most: int, weights: str):
    """Bytes (even and extreme weights, payloads up to 4 x 31) and float32 (odd ones beyond a byte)."""
    rng = np.random.default_rng(4)
    c, shape = SYNAPSES[name], SYNAPSES[name].weight.shape
    weight = {
        "even": grid(rng, *shape),
        "extreme": np.where(rng.random(shape) < 0.5, -256, 254).astype(np.int32),
        "odd": rng.integers(-128, 128, shape).astype(np.int32),
        "wide": rng.integers(0, 256, shape).astype(np.int32),
    }[weights]
    c = dataclasses.replace(c, weight=weight, graded=most > 1)
    drive = drive_of(c, most)
    x = rng.integers(0, most + 1, (3, 2, *c.source_shape)).astype(np.uint8)
    x[0] = most
    source = Activity(sent(c, x), 0, most)
    assert drive.fits(0, most)
    low, high = drive.span(0, most)
    found = drive.sums(source).unflatten(0, (3, 2))
    expected = [
        [lava_listing.current(c, s.astype(np.int64), drive.synapses.shape, True) for s in t] for t in x
    ]
    wanted = stored(torch.from_numpy(np.array(expected).reshape(3, 2, *drive.synapses.shape)), 2)
    assert torch.equal(found, 64.0 * wanted)
    assert torch.equal(drive.integers(source), wanted.int())
    assert low <= int(wanted.min()) <= int(wanted.max()) <= high


def test_bytes_are_used_only_where_products_of_pairs_fit():
    """Where oneDNN multiplies bytes at all; else the same tests run in float32."""
    rng = np.random.default_rng(5)
    even = dataclasses.replace(SYNAPSES["dense"], weight=grid(rng, 9, 24), graded=True)
    odd = dataclasses.replace(even, weight=np.full((9, 24), 255, np.int32))
    usable = drive_of(even, 127)._kernel(0, 1) is not None
    if not usable:
        pytest.skip("oneDNN multiplies no bytes exactly on this machine.")
    assert drive_of(even, 127)._kernel(0, 127) is not None
    assert drive_of(even, 200)._kernel(0, 128) is None
    assert drive_of(even, 127)._kernel(-1, 127) is None
    assert drive_of(odd, 127)._kernel(0, 1) is None


def test_a_product_in_bytes_that_is_not_exact_is_not_used(monkeypatch: pytest.MonkeyPatch):
    exact = loihi_drive._Bytes.product
    monkeypatch.setattr(loihi_drive._Bytes, "product", lambda self, x: exact(self, x) + 64)
    c = dataclasses.replace(SYNAPSES["conv"], weight=grid(np.random.default_rng(6), 5, 3, 3, 3))
    drive = drive_of(c, 1)
    assert drive._kernel(0, 1) is None
    x = np.ones((1, 1, *c.source_shape), np.uint8)
    expected = lava_listing.current(c, x[0, 0].astype(np.int64), drive.synapses.shape, True)
    found = drive.sums(Activity(sent(c, x), 0, 1))[0].movedim(-1, 0)
    np.testing.assert_array_equal(found, 64 * expected)


@pytest.mark.filterwarnings("ignore:Frames of 'x' are rounded")
@pytest.mark.parametrize("scale", [1.0, 4.0, 3.0])
@pytest.mark.parametrize("values", ["spikes", "bytes", "signed", "beyond a byte", "fractions", "late"])
def test_payloads_of_any_kind_equal_the_listing(scale: float, values: str, monkeypatch: pytest.MonkeyPatch):
    """Also where only the last tile is not whole, so that a recording changes its way."""
    rng = np.random.default_rng(7)
    kit = Kit(rng)
    conv = Connection("x", "conv", kit.weight(3, 2, 3, 3), (2, 4, 5), graded=True)
    layered = program(lif("a", (3, 2, 3), conv, dv=3000), shape=(2, 4, 5), input_max=100)
    (source,) = layered.inputs
    layered = dataclasses.replace(layered, inputs=(dataclasses.replace(source, scale=scale),))
    shape = (9, 4, 2, 4, 5)
    x = {
        "spikes": rng.integers(0, 2, shape),
        "bytes": rng.integers(0, 101, shape),
        "signed": rng.integers(-100, 101, shape),
        "beyond a byte": rng.integers(0, 300, shape),
        "fractions": rng.uniform(-60, 120, shape),
        "late": rng.integers(0, 2, shape) * 1.0,
    }[values].astype(np.float32)
    if values == "late":
        x[-1, 1] -= 0.5
    monkeypatch.setattr(loihi_tiles, "TILE_BYTES", 1000)
    assert_equal_to_listing(layered, {"x": x})
    clipped = int((np.abs(np.rint(np.float64(x) * scale)) > 100).sum())
    assert steps(layered, {"x": x}).saturated == clipped
