"""Data sets by name: what they say of themselves, decoding on demand, means in one pass."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rsc.data import DATASETS, Dataset, LazyImages, load
from rsc.data import lazy as lazy_module
from rsc.errors import InputRefused, UsageError

NAMES = (
    "digits mnist fashion-mnist kmnist cifar10 cifar100 svhn tiny-imagenet imagenet n-mnist cifar10-dvs"
    " dvs-gesture"
)


def made(images: object, frames: bool = False) -> Dataset:
    n = len(images)  # type: ignore[arg-type]
    return Dataset("made", "train", images, np.zeros(n, np.int64), np.arange(n), (0, 1), ("a",), frames)


def noise(*shape: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(1)).random(shape, np.float32)


def lazy(array: np.ndarray, reads: list[int] | None = None) -> LazyImages:
    def read(k: int) -> np.ndarray:
        if reads is not None:
            reads.append(k)
        return array[k]

    return LazyImages(read, array.shape[1:], np.arange(len(array)))


def test_the_names_are_those_of_the_command_line() -> None:
    assert " ".join(DATASETS) == NAMES


def test_importing_the_package_brings_in_no_heavy_library() -> None:
    code = "import sys, rsc.data; print(*{'torch', 'PIL', 'sklearn', 'scipy', 'tonic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("name", [name for name in NAMES.split() if name != "digits"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_set_is_named_with_file_command_and_licence(name: str, split: str, tmp_path: Path) -> None:
    with pytest.raises(InputRefused) as caught:
        load(name, split, tmp_path)  # type: ignore[arg-type]
    entry, text = DATASETS[name], str(caught.value)
    assert f"there is no '{tmp_path}/" in text
    assert entry.source.licence in text
    assert entry.source.home in text
    assert str(tmp_path) in caught.value.fix
    assert "{root}" not in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "split", "options", "word"),
    [
        ("digitz", "test", {}, "digits"),
        ("digits", "val", {}, "train, test"),
        ("digits", "test", {"size": 8}, "no option 'size'"),
        ("imagenet", "test", {"steps": 8}, "no option 'steps'"),
        ("imagenet", "test", {"size": 0}, "1 to 4096"),
        ("n-mnist", "test", {"steps": 2.5}, "integer"),
    ],
)
def test_wrong_requests_are_named(name: str, split: str, options: dict, word: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=word):
        load(name, split, tmp_path, **options)  # type: ignore[arg-type]


def test_a_folder_that_may_not_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "DVSGesture" / "ibmGestureTest").mkdir(parents=True)

    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(InputRefused, match=r"ibmGestureTest' cannot be read. Permission denied"):
        load("dvs-gesture", "test", tmp_path)


def test_digits_need_no_files_and_are_the_real_ones() -> None:
    from sklearn.datasets import load_digits

    test, raw = load("digits", "test"), load_digits()
    assert np.array_equal(test.images[:, 0] * 16, raw.images[test.ids])  # type: ignore[attr-defined]
    assert np.array_equal(test.targets, raw.target[test.ids])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "index",
    [slice(None), slice(3, 9, 2), slice(-2, None), [4, 4, 0], np.array([-1]), [], 5, np.arange(10) % 3 == 0],
)
def test_lazy_samples_are_indexed_like_an_array(index: object) -> None:
    array = noise(10, 2, 3, 3)
    found = lazy(array)[index]
    expected = array[np.array(index, np.int64) if isinstance(index, list) else index]  # type: ignore[index]
    assert found.dtype == np.float32
    assert np.array_equal(found, expected)


def test_lazy_samples_look_like_an_array() -> None:
    array = noise(5, 1, 2, 2)
    made_lazily = lazy(array)
    assert (made_lazily.shape, made_lazily.ndim, made_lazily.dtype) == ((5, 1, 2, 2), 4, np.float32)
    assert np.array_equal(np.asarray(made_lazily), array)
    assert np.asarray(made_lazily, np.float64).dtype == np.float64
    assert np.array_equal(np.stack(list(made_lazily)), array)


def test_taking_samples_decodes_nothing_and_composes() -> None:
    array, reads = noise(10, 1, 2, 2), []
    data = made(lazy(array, reads)).head(8)
    fewer = data.images.take(np.array([7, 2, 5])).take(slice(1, None))
    assert (len(data), len(fewer), reads) == (8, 2, [])
    assert np.array_equal(fewer[:], array[[2, 5]])
    assert reads == [2, 5]


@pytest.mark.parametrize("index", [10, -11, [3, 10], np.ones(9, bool)])
def test_lazy_samples_outside_the_set_raise_as_an_array_does(index: object) -> None:
    with pytest.raises(IndexError):
        lazy(noise(10, 1, 2, 2))[index]


@pytest.mark.parametrize("index", [(0, 1), (slice(2), 0), 1.5, [1.0], [[1, 2]], True, "a", None])
def test_indices_that_are_no_sample_numbers_are_refused(index: object) -> None:
    with pytest.raises(UsageError, match="by other than their numbers"):
        lazy(noise(10, 1, 2, 2))[index]


def test_too_much_at_once_is_refused_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    monkeypatch.setattr(lazy_module, "AT_ONCE", 100)
    many = lazy(noise(10, 1, 2, 2), reads)
    with pytest.raises(UsageError, match="Read them in batches"):
        np.asarray(many)
    assert reads == []
    assert len(many[:6]) == 6


def test_head_of_an_array_and_of_nothing() -> None:
    data = made(noise(4, 1, 2, 2))
    assert len(data.head(3)) == 3
    assert len(data.head(None)) == 4
    with pytest.raises(UsageError, match="0 samples"):
        data.head(0)


@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize("wrap", [lambda x: x, lazy])
def test_mean_and_std_are_those_of_numpy_in_float64(frames: bool, wrap, monkeypatch) -> None:
    """Chunks of 7 samples of unequal means: a mean of means, or a sum of squares in float32, would fail."""
    array = noise(*((23, 4, 3, 5, 5) if frames else (23, 3, 5, 5)))
    array += 1000 + np.arange(23, dtype=np.float32).reshape(-1, *[1] * (array.ndim - 1))
    monkeypatch.setattr("rsc.data.dataset._CHUNK", 7 * array[0].nbytes)
    mean, std = made(wrap(array), frames).mean_std()
    axes = (0, 1, 3, 4) if frames else (0, 2, 3)
    assert np.allclose(mean, array.mean(axes, dtype=np.float64), rtol=1e-13)
    assert np.allclose(std, array.astype(np.float64).std(axes), rtol=1e-9)


def test_mean_and_std_read_a_bounded_number_of_samples_at_once_and_keep_none() -> None:
    reads: list[int] = []
    data = made(lazy(noise(6, 1, 2, 2), reads))
    assert data.mean_std() == data.mean_std()
    assert reads == [*range(6), *range(6)]


def test_the_mean_of_nothing_is_refused() -> None:
    with pytest.raises(InputRefused, match="no samples"):
        dataclasses.replace(made(noise(1, 1, 2, 2)), images=noise(0, 1, 2, 2)).mean_std()
