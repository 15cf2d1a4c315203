"""Events as frames: counted event by event, and by tonic where it is; broken recordings are named."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from event_files import recording, write_atis, write_gesture

from rsc.data import load
from rsc.data.frames import Events, bin_events
from rsc.errors import InputRefused, MalformedFile, UsageError

needs_tonic = pytest.mark.skipif(importlib.util.find_spec("tonic") is None, reason="tonic is not installed")


@pytest.mark.parametrize(
    ("steps", "span", "size"), [(1, 500, 8), (4, 1001, 8), (7, 1001, 4), (10, 3, 8), (5, 997, 3)]
)
def test_every_event_is_counted_once_in_its_span(steps: int, span: int, size: int) -> None:
    events = recording(400, 8, span)
    frames = bin_events(events, steps, 8, size)
    first, width = events.t[0], max((events.t[-1] - events.t[0]) // steps, 1)
    expected = np.zeros((steps, 2, size, size))
    for x, y, p, t in zip(events.x, events.y, events.p, events.t, strict=True):
        k = 0
        while k < steps - 1 and t >= first + (k + 1) * width:
            k += 1
        expected[k, p, int(y * size / 8), int(x * size / 8)] += 1
    assert frames.dtype == np.float32
    assert np.array_equal(frames, expected)
    assert frames.sum() == 400


def test_pooling_to_half_the_size_sums_blocks_of_four() -> None:
    events = recording(1000, 8, 100)
    whole, half = bin_events(events, 3, 8, 8), bin_events(events, 3, 8, 4)
    assert np.array_equal(half, whole.reshape(3, 2, 4, 2, 4, 2).sum((3, 5)))


def test_events_in_one_instant_and_out_of_order_are_counted() -> None:
    events = recording(50, 4, 900)
    turned = Events(events.x[::-1], events.y[::-1], events.p[::-1], events.t[::-1])
    assert np.array_equal(bin_events(turned, 5, 4, 4), bin_events(events, 5, 4, 4))
    instant = bin_events(Events(events.x, events.y, events.p, np.full(50, 7)), 5, 4, 4)
    assert (instant[0].sum(), instant[1:].sum()) == (50, 0)


@needs_tonic
@pytest.mark.parametrize("steps", [1, 4, 10])
def test_frames_are_tonics_but_for_the_end_that_it_leaves_out(steps: int) -> None:
    from tonic.transforms import ToFrame  # pyright: ignore[reportMissingImports]

    events = recording(3000, 34, 300_017)
    kinds = [("x", int), ("y", int), ("p", int), ("t", int)]
    table = np.array(list(zip(events.x, events.y, events.p, events.t, strict=True)), kinds)
    theirs = ToFrame(sensor_size=(34, 34, 2), n_time_bins=steps)(table)
    ours = bin_events(events, steps, 34, 34)
    assert np.array_equal(ours[:-1], theirs[:-1])
    end = events.t >= events.t[0] + (events.t[-1] - events.t[0]) // steps * steps
    assert 1 <= end.sum() < 5
    rest = np.zeros((2, 34, 34))
    np.add.at(rest, (events.p[end], events.y[end], events.x[end]), 1)
    assert np.array_equal(ours[-1], theirs[-1] + rest)


@pytest.fixture
def n_mnist(tmp_path: Path) -> Path:
    for folder in ("Train", "Test"):
        for digit in range(10):
            for name in ("00007", "00012"):
                path = tmp_path / "NMNIST" / folder / str(digit) / f"{name}.bin"
                write_atis(path, recording(200, 34, 300_000, 100 * digit + int(name)))
    return tmp_path


def test_n_mnist_is_frames_of_counts(n_mnist: Path) -> None:
    data = load("n-mnist", "test", n_mnist)
    assert (data.frames, data.images.shape, data.images.dtype) == (True, (20, 10, 2, 34, 34), np.float32)
    assert data.targets.tolist() == [k // 2 for k in range(20)]
    expected = bin_events(recording(200, 34, 300_000, 312), 10, 34, 34)
    assert np.array_equal(data.images[7], expected)
    fewer = load("n-mnist", "test", n_mnist, steps=4, size=17)
    assert np.array_equal(fewer.images[7], bin_events(recording(200, 34, 300_000, 312), 4, 34, 17))
    assert len(data.mean_std()[0]) == 2


def test_n_mnist_overflow_marks_move_the_time_and_are_no_events(n_mnist: Path) -> None:
    path = n_mnist / "NMNIST" / "Test" / "0" / "00007.bin"
    t, mark = np.array([0, 0, 100, 0, 100]), np.array([5, 240, 5, 240, 5])
    write_atis(path, Events(np.full(5, 3), mark, np.ones(5, int), t))
    frames = load("n-mnist", "test", n_mnist, steps=2).images[0]
    assert frames.sum() == 3
    assert frames[:, 1, 5, 3].tolist() == [1, 2], "times 0, 8,292 and 16,484 us"


@needs_tonic
def test_n_mnist_files_are_read_as_tonic_reads_them(n_mnist: Path) -> None:
    from tonic.datasets.nmnist import NMNIST  # pyright: ignore[reportMissingImports]
    from tonic.io import read_mnist_file  # pyright: ignore[reportMissingImports]

    from rsc.data.events import _read_atis

    path = n_mnist / "NMNIST" / "Test" / "3" / "00012.bin"
    path.write_bytes(np.random.Generator(np.random.PCG64(0)).integers(0, 256, 5000, np.uint8).tobytes())
    ours, theirs = _read_atis(path), read_mnist_file(str(path), NMNIST.dtype)
    for name in ("x", "y", "p", "t"):
        assert np.array_equal(getattr(ours, name), theirs[name]), name


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no events"),
        (bytes(5) * 3 + b"\0", "no whole number"),
        (b"\x22" + bytes(4), "columns are 34..34, outside 0..33"),
        (b"\x00\xef" + bytes(3), "rows are 239..239"),
    ],
)
def test_broken_recordings_of_n_mnist_are_named(n_mnist: Path, content: bytes, why: str) -> None:
    path = n_mnist / "NMNIST" / "Test" / "9" / "00007.bin"
    path.write_bytes(content)
    with pytest.raises(MalformedFile, match=why) as caught:
        load("n-mnist", "test", n_mnist).images[-2:]
    assert str(path) in caught.value.what
    assert "tonic" in caught.value.fix


def test_a_digit_without_recordings_is_named(n_mnist: Path) -> None:
    for path in (n_mnist / "NMNIST" / "Train" / "4").iterdir():
        path.unlink()
    with pytest.raises(InputRefused, match=r"there is no '.*Train/4/\*.bin'"):
        load("n-mnist", "train", n_mnist)
    with pytest.raises(UsageError, match="35 x 35"):
        load("n-mnist", "test", n_mnist, size=35)


@pytest.fixture
def gesture(tmp_path: Path) -> Path:
    top = tmp_path / "DVSGesture" / "ibmGestureTest"
    for user in ("user24_led", "user3_natural"):
        for k in (10, 2, 0):
            write_gesture(top / user / f"{k}.npy", recording(300, 128, 6000, k))
    return tmp_path


def test_gestures_are_listed_by_number_whatever_the_file_system_says(gesture: Path, monkeypatch) -> None:
    data = load("dvs-gesture", "test", gesture, size=32)
    assert data.targets.tolist() == [0, 2, 10, 0, 2, 10]
    assert data.images.shape == (6, 16, 2, 32, 32)
    names = [str(path.relative_to(gesture)) for path in data.images.read.paths]  # type: ignore[attr-defined]
    assert "user3_" in names[0]
    assert "user24_" in names[3]
    ways = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: reversed(list(ways(path))))
    again = load("dvs-gesture", "test", gesture, size=32)
    assert np.array_equal(again.images[:], data.images[:])
    events = recording(300, 128, 6000, 10)
    scaled = Events(events.x, events.y, events.p, events.t * 1000)
    assert np.array_equal(data.images[2], bin_events(scaled, 16, 128, 32)), "ms become us"


@pytest.mark.parametrize("kind", ["u2", "i4", "i8", "u8", "f8"])
def test_gestures_are_the_same_in_any_type_of_number(gesture: Path, kind: str) -> None:
    before = load("dvs-gesture", "test", gesture).images[1]
    path = gesture / "DVSGesture" / "ibmGestureTest" / "user3_natural" / "2.npy"
    np.save(path, np.load(path).astype(kind))
    assert np.array_equal(load("dvs-gesture", "test", gesture).images[1], before)


class Trap:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("trap"),))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", ""),
        (b"PK\x03\x04", "magic string"),
        (np.zeros((5, 3), int), "no array"),
        (np.full((5, 4), np.nan), "finite"),
        (np.zeros((5, 4), "S1"), "no array"),
        (np.array([[0, 0, 2, 0]]), "polarities are 2..2"),
        (np.array([[-1, 0, 0, 0]]), "columns are -1..-1"),
        (np.array([[0, 0, 0, -(2**62)], [0, 0, 0, 2**62]]), "times"),
        (np.array([Trap()]), "objects|Python"),
    ],
)
def test_broken_gestures_are_named(gesture: Path, content, why: str, monkeypatch) -> None:
    monkeypatch.chdir(gesture)
    path = gesture / "DVSGesture" / "ibmGestureTest" / "user3_natural" / "2.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(MalformedFile, match=why or None) as caught:
        load("dvs-gesture", "test", gesture).images[1]
    assert str(path) in caught.value.what
    assert not Path("trap").exists()


@pytest.mark.parametrize("keep", [5, 60, 127, 128, 500])
def test_a_truncated_gesture_is_named(gesture: Path, keep: int) -> None:
    path = gesture / "DVSGesture" / "ibmGestureTest" / "user3_natural" / "2.npy"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(MalformedFile, match=r"2.npy"):
        load("dvs-gesture", "test", gesture).images[1]


def test_a_gesture_of_no_class_is_named(gesture: Path) -> None:
    path = gesture / "DVSGesture" / "ibmGestureTest" / "user3_natural" / "11.npy"
    write_gesture(path, recording(3, 128, 10))
    with pytest.raises(MalformedFile, match=r"11.npy.*no class 0..10"):
        load("dvs-gesture", "test", gesture)


@pytest.fixture
def cifar10_dvs(tmp_path: Path) -> Path:
    """Files that hold the number from which a stand-in for the decoder makes events."""
    from rsc.data.events import CIFAR10

    for k, name in enumerate(CIFAR10):
        (tmp_path / "CIFAR10DVS" / name).mkdir(parents=True)
        for i in range(10):
            (tmp_path / "CIFAR10DVS" / name / f"cifar10_{name}_{i + 3}.aedat4").write_text(str(10 * k + i))
    return tmp_path


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """tonic.io.read_aedat4 without tonic: the fields that aedat 2.3 gives."""

    def read_aedat4(path: str) -> np.ndarray:
        events = recording(100, 128, 5000, int(Path(path).read_text()))
        table = np.zeros(100, [("t", "<u8"), ("x", "<u2"), ("y", "<u2"), ("on", "?")])
        table["t"], table["x"], table["y"], table["on"] = events.t, events.x, events.y, events.p
        return table

    tonic, io = types.ModuleType("tonic"), types.ModuleType("tonic.io")
    io.read_aedat4 = read_aedat4  # type: ignore[attr-defined]
    for name, module in {"tonic": tonic, "tonic.io": io, "aedat": types.ModuleType("aedat")}.items():
        monkeypatch.setitem(sys.modules, name, module)
    return io


def test_cifar10_dvs_holds_out_the_last_tenth_of_each_class(cifar10_dvs: Path, decoder) -> None:
    train, test = (load("cifar10-dvs", split, cifar10_dvs) for split in ("train", "test"))  # type: ignore[arg-type]
    assert (len(train), len(test)) == (90, 10)
    assert test.targets.tolist() == list(range(10))
    assert test.ids.tolist() == list(range(9, 100, 10)), "number 12 comes after number 3..11"
    assert not set(train.ids) & set(test.ids)
    assert np.array_equal(test.images[4], bin_events(recording(100, 128, 5000, 49), 10, 128, 128))


class PanicException(BaseException):
    """What a Rust decoder raises when it panics."""


@pytest.mark.parametrize("kind", [RuntimeError, PanicException, KeyError])
def test_whatever_the_decoder_raises_names_the_file(cifar10_dvs: Path, decoder, kind, monkeypatch) -> None:
    def read(path: str) -> None:
        raise kind("failed to fill whole buffer")

    monkeypatch.setattr(decoder, "read_aedat4", read)
    with pytest.raises(MalformedFile, match=r"airplane_12.aedat4.*failed to fill"):
        load("cifar10-dvs", "test", cifar10_dvs).images[0]


def test_an_interruption_of_the_decoder_stays_one(cifar10_dvs: Path, decoder, monkeypatch) -> None:
    def read(path: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(decoder, "read_aedat4", read)
    with pytest.raises(KeyboardInterrupt):
        load("cifar10-dvs", "test", cifar10_dvs).images[0]


def test_without_tonic_the_extra_is_named(cifar10_dvs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aedat", None)
    with pytest.raises(InputRefused, match=r"pip install 'rsc-snn\[events\]'"):
        load("cifar10-dvs", "test", cifar10_dvs)


@pytest.mark.skipif(importlib.util.find_spec("aedat") is None, reason="aedat is not installed")
@needs_tonic
@pytest.mark.parametrize("content", [b"", b"garbage", b"#!AER-DAT4.0\r\n" + bytes(100)])
def test_the_real_decoder_on_broken_files(cifar10_dvs: Path, content: bytes) -> None:
    path = cifar10_dvs / "CIFAR10DVS" / "airplane" / "cifar10_airplane_12.aedat4"
    path.write_bytes(content)
    with pytest.raises(MalformedFile, match=r"airplane_12.aedat4.*tonic cannot decode it"):
        load("cifar10-dvs", "test", cifar10_dvs).images[0]
