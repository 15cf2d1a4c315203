"""examples/web in a real Chromium: drawings are classified, controls act, counts are as in `rsc energy`."""

from __future__ import annotations

import base64
import importlib.util
import io
import itertools
import json
import shutil
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nir
import numpy as np
import onnx
import onnxruntime
import pytest
from browser import Browser, find_chromium, served
from PIL import Image
from rule_networks import DT, chain, lif

from rsc.bundle import Bundle
from rsc.cli import main
from rsc.coding import keyed_noise
from rsc.data import Dataset
from rsc.errors import InputRefused, TargetUnavailable
from rsc.export.onnx import OnnxForm, to_onnx
from rsc.pipeline import Packed, to_bundle
from rsc.program import Program, Semantics
from rsc.results import Keys
from rsc.training import TrainConfig

WEB = Path(__file__).parent.parent / "examples" / "web"
RUNS = 3
THREE = [
    (0.3, 0.25),
    (0.5, 0.18),
    (0.65, 0.25),
    (0.62, 0.4),
    (0.45, 0.48),
    (0.65, 0.55),
    (0.5, 0.82),
    (0.3, 0.75),
]
ONE = [(0.5, 0.2), (0.5, 0.5), (0.5, 0.8)]


def load_build() -> Any:
    """The build script as a module."""
    spec = importlib.util.spec_from_file_location("web_build", WEB / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load_build()


@pytest.fixture(scope="module")
def bundle(packed: Packed, small_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return to_bundle(packed, small_config, "small").save(tmp_path_factory.mktemp("web") / "small")


@pytest.fixture(scope="module")
def site(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page with a model of its own, and one in float64 that is fed its noise."""
    if find_chromium() is None:
        pytest.skip("No Chromium is installed.")
    folder = tmp_path_factory.mktemp("site")
    vendor = folder / "vendor"
    vendor.mkdir()
    for path in WEB.glob("*.*"):
        shutil.copy(path, folder)
    for name in build.FILES.values():
        if (WEB / "vendor" / name).exists():
            shutil.copy(WEB / "vendor" / name, vendor)
    try:
        build.fetch_runtime(vendor)
    except TargetUnavailable as error:
        pytest.skip(str(error))
    made = Bundle.load(bundle)
    build.build(made, vendor, votes=9)
    form = OnnxForm("float64", "noise", votes=RUNS, counts=True)
    build.write_model(made.program, form, vendor / "fed.onnx")
    return folder


@pytest.fixture(scope="module")
def browser(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(find_chromium() or "", tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def page(site: Path, browser: Browser) -> Iterator[Browser]:
    """The page when it is ready; afterwards it must not have complained or asked another host."""
    browser.events.clear()
    with served(site) as address:
        browser.call("Page.navigate", url=address)
        browser.wait_for("document.querySelectorAll('#votes li').length === 10")
        yield browser
        browser.evaluate("0")  # takes in what was reported meanwhile
        assert browser.complaints() == []
        asked = browser.requests()
        assert any(url.endswith("/vendor/ort.wasm") for url in asked)
        assert [url for url in asked if not url.startswith((address, "data:"))] == []
        browser.call("Page.navigate", url="about:blank")


def text(page: Browser, name: str) -> str:
    return page.evaluate(f"document.getElementById('{name}').textContent")


def number(page: Browser, name: str) -> int:
    return int(text(page, name).replace(",", ""))


def votes(page: Browser) -> list[int]:
    return page.evaluate("[...document.querySelectorAll('#votes .count')].map(e => Number(e.textContent))")


def inside(page: Browser, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points of the window of points in the drawing area, both axes from 0 to 1."""
    box = page.evaluate("document.getElementById('pad').getBoundingClientRect().toJSON()")
    return [(box["x"] + u * box["width"], box["y"] + v * box["height"]) for u, v in points]


def settled(page: Browser, steps: int, runs: int) -> None:
    """Wait until a vote of these settings is shown."""
    page.wait_for(f"document.getElementById('status').textContent.includes('of {runs} runs')")
    page.wait_for(f"document.getElementById('status').textContent.includes('T = {steps},')")


def move(page: Browser, name: str, value: float) -> None:
    """Put a slider there, as an assistive tool does."""
    page.evaluate(
        f"(e => {{ e.value = {value}; e.dispatchEvent(new Event('input', {{bubbles: true}})) }})"
        f"(document.getElementById('{name}'))"
    )


def test_a_drawn_digit_gets_a_vote_and_clearing_takes_it_away(page: Browser) -> None:
    assert text(page, "prediction") == "–"
    page.drag(inside(page, THREE))
    settled(page, 4, 9)
    found = votes(page)
    assert sum(found) == 9
    assert text(page, "prediction") == str(int(np.argmax(found)))
    assert number(page, "total-spikes") > 0
    page.evaluate("document.getElementById('clear').click()")
    page.wait_for("document.getElementById('prediction').textContent === '–'")
    assert votes(page) == [0] * 10
    assert text(page, "total-sop") == "–"


def test_sliders_change_steps_runs_and_noise(page: Browser) -> None:
    page.drag(inside(page, THREE))
    settled(page, 4, 9)
    macs = number(page, "total-mac")
    move(page, "steps", 8)
    settled(page, 8, 9)
    assert number(page, "total-mac") == 2 * macs
    move(page, "runs", 27)
    settled(page, 8, 27)
    assert number(page, "total-mac") == 6 * macs
    assert sum(votes(page)) == 27
    move(page, "sigma", 0)
    move(page, "runs", 10)
    settled(page, 8, 10)
    assert sorted(votes(page)) == [0] * 9 + [10]  # without noise all runs are one
    one = number(page, "total-sop")
    page.evaluate("document.getElementById('again').click()")
    move(page, "runs", 20)
    settled(page, 8, 20)
    assert number(page, "total-sop") == 2 * one


def seen(page: Browser) -> np.ndarray:
    """Counts [8, 8] of what the page says that the network gets, off by less than one."""
    url = page.evaluate("document.getElementById('seen').toDataURL()")
    image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    return np.asarray(image)[4::8, 4::8, 3] / 255 * 16


def shows(page: Browser, image: np.ndarray, timeout: float = 90.0) -> bool:
    """Whether the page comes to show this image, give or take one of 16 pixels."""
    end = time.monotonic() + timeout
    while np.abs(seen(page) - image).max() > 1.1:
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_a_finger_and_the_keyboard_draw_what_the_mouse_draws(page: Browser) -> None:
    page.drag(inside(page, ONE))
    settled(page, 4, 9)
    by_mouse = seen(page)
    assert by_mouse.max() > 15
    page.evaluate("document.getElementById('clear').click()")
    page.wait_for("document.getElementById('prediction').textContent === '–'")
    assert seen(page).max() == 0
    page.touch(inside(page, ONE))
    assert shows(page, by_mouse)
    page.evaluate("document.getElementById('pad').focus()")
    page.press("Delete")
    page.wait_for("document.getElementById('prediction').textContent === '–'")
    page.press(" ")
    page.press("ArrowDown", 12)
    assert shows(page, by_mouse)
    settled(page, 4, 9)


def test_a_test_digit_is_fed_as_it_is(page: Browser, digits: Dataset) -> None:
    facts = page.evaluate("fetch('vendor/digits.json').then(r => r.json())")
    for example, other in itertools.pairwise(facts["examples"]):
        assert int(example["label"]) + 1 == int(other["label"])
    assert facts["examples"][int(digits.targets[0])]["pixels"] == (digits.images[0].ravel() * 16).tolist()
    page.evaluate("document.querySelectorAll('#examples button')[0].click()")
    settled(page, 4, 9)
    assert page.evaluate("document.querySelectorAll('#examples button')[0].ariaLabel") == "Test digit 0"


def test_every_control_has_a_name(page: Browser) -> None:
    page.call("Accessibility.enable")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "slider", "application", "meter", "img", "image")
    named = [n for n in nodes if n["role"]["value"] in roles and not n["ignored"]]
    assert sum(n["role"]["value"] == "slider" for n in named) == 3
    assert sum(n["role"]["value"] == "meter" for n in named) == 10
    assert [n for n in named if not n["name"]["value"]] == []


def test_on_a_phone_nothing_is_cut_off_and_the_answer_is_beside_the_drawing(page: Browser) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=2, mobile=True)
    try:
        page.touch(inside(page, ONE))
        settled(page, 4, 9)
        room = "[document.documentElement, document.querySelector('.scroll')]"
        widths = page.evaluate(f"{room}.map(e => [e.scrollWidth, e.clientWidth])")
        assert [wide for wide, shown in widths if wide > shown] == []
        assert page.evaluate("document.getElementById('prediction').getBoundingClientRect().bottom") < 844
        cells = "[...document.querySelectorAll('#layers tr:last-child td')]"
        columns = page.evaluate(f"{cells}.map(e => e.innerText)")
        assert all(columns[:5])
    finally:
        page.call("Emulation.clearDeviceMetricsOverride")


def test_a_drawing_becomes_the_same_image_wherever_and_however_large_it_is(page: Browser) -> None:
    def pixels(points: list[tuple[float, float]], scale: float, shift: float, slant: float = 0) -> np.ndarray:
        moved = [[scale * (x + slant * y) + shift, scale * y + shift / 2] for x, y in points]
        return np.reshape(page.evaluate(f"import('/digit.js').then(m => m.pixelsOf([{moved}]))"), (8, 8))

    image = pixels(THREE, 300, 10)
    assert image.min() == 0
    assert image.max() == 16
    assert abs(image.sum() - 312) < 25  # mean ink of the data set
    assert (image.sum(1) > 0).all()  # all rows
    assert image[:, [0, 7]].sum() == 0  # 20 columns in the middle
    assert np.abs(pixels(THREE, 100, 150) - image).max() <= 1
    upright = pixels(ONE, 300, 10)
    assert (upright[:, 3:5] > 8).all()
    for slant in (-0.4, 0.4):
        assert np.abs(pixels(ONE, 300, 100, slant) - upright).max() <= 1


def test_the_page_counts_what_rsc_energy_counts(
    page: Browser, bundle: Path, digits: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["energy", bundle, "--on", "reference", "--n", 1, "--seeds", RUNS, "--json"]
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert not ended.value.code
    report = json.loads(capsys.readouterr().out)
    spec = Bundle.load(bundle).program.encoder
    assert spec is not None
    noise = [keyed_noise(spec, Keys(seed, digits.ids[:1]), (1, 8, 8)) for seed in range(RUNS)]
    fed: Any = np.stack(noise)  # type: ignore[arg-type]
    image = digits.images[0].ravel().tolist()
    settings = {"sigma": spec.sigma, "steps": spec.steps, "runs": RUNS}
    found = page.evaluate(
        f"""(async () => {{
            const network = await import("/network.js"), settings = {json.dumps(settings)};
            const opened = await network.open("vendor/fed.onnx");
            const noise = {{data: {fed.ravel().tolist()}, dims: {list(fed.shape)}}};
            const result = await network.classify(opened, {image}, settings, noise);
            return {{...result, ...network.operations(opened.facts, result.counts, settings)}};
        }})()"""
    )
    energy = report["energy"][0] if "energy" in report else report
    layers = {layer["node"]: layer for layer in energy["layers"]}
    assert {edge["target"] for edge in found["events"]} == {n for n, row in layers.items() if row["sop"]}
    assert {edge["target"] for edge in found["graded"]} == {n for n, row in layers.items() if row["mac"]}
    for edge in found["events"]:
        row = layers[edge["target"]]
        assert (edge["sop"], edge["sop_nz"]) == (row["sop"], row["sop_nz"])
        assert row["sop"] > 0
        assert sum(found["counts"][edge["source"]]) == row["events"]
    for edge in found["graded"]:
        assert edge["mac"] == layers[edge["target"]]["mac"]


def test_the_page_refuses_other_hosts_and_the_watch_on_it_sees_errors(
    browser: Browser, site: Path, tmp_path: Path
) -> None:
    (tmp_path / "index.html").write_text(
        '<link rel="icon" href="data:,"><script>console.error("seen"); fetch("nowhere"); ready = 1</script>'
    )
    with served(tmp_path) as elsewhere, served(site) as address:
        browser.events.clear()
        browser.call("Page.navigate", url=elsewhere)
        browser.wait_for("window.ready")
        browser.wait_for("performance.getEntriesByName(new URL('nowhere', location.href).href).length")
        assert any("seen" in line for line in browser.complaints())
        assert any("404" in line for line in browser.complaints())
        assert f"{elsewhere}nowhere" in browser.requests()
        browser.call("Page.navigate", url=address)
        browser.wait_for("document.querySelectorAll('#votes li').length === 10")
        assert browser.evaluate(f"fetch('{elsewhere}').then(() => 'answered', () => 'refused')") == "refused"
        assert any("Content Security Policy" in line for line in browser.complaints())
        browser.call("Page.navigate", url="about:blank")


def test_inputs_without_a_default_change_nothing_else(program: Program, digits: Dataset) -> None:
    form = OnnxForm(feed="graph", votes=5, counts=True)
    model = build.without_defaults(to_onnx(program, form))
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert {value.name for value in session.get_inputs()} == {"image", "sigma", "steps", "runs"}
    assert not session.get_overridable_initializers()
    fed = {
        "image": digits.images[:2],
        "sigma": np.float32(0.2),
        "steps": np.array([4]),
        "runs": np.array([7]),
    }
    (found,) = session.run(["votes"], {name: np.asarray(value) for name, value in fed.items()})
    assert np.asarray(found).sum(1).tolist() == [7, 7]


def test_a_delayed_edge_is_refused() -> None:
    weights = nir.Linear(np.ones((1, 1)))
    graph = chain(lif())
    graph.nodes["back"] = weights
    neuron = next(name for name, node in graph.nodes.items() if isinstance(node, nir.LIF))
    graph.edges.extend([(neuron, "back"), ("back", neuron)])
    with pytest.raises(InputRefused, match="delayed"):
        build.operations(Program(graph, Semantics(DT)))


def test_a_bundle_of_other_images_is_refused(packed: Packed, small_config: TrainConfig) -> None:
    made = to_bundle(packed, small_config, "small")
    other = Bundle("other", Program(chain(lif()), Semantics(DT)), made.state, {}, {}, {})
    with pytest.raises(InputRefused, match="does not classify digits"):
        build.facts(other, 3)


def test_another_package_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "other.tgz", "w:gz") as archive:
        archive.add(WEB / "index.html", next(iter(build.FILES)))
    with pytest.raises(TargetUnavailable, match="SHA-512"):
        build.unpack(tmp_path / "other.tgz", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["other.tgz"]


def test_without_npm_the_build_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TargetUnavailable, match="npm is not installed"):
        build.fetch_runtime(tmp_path)
