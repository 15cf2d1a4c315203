"""MNIST-like files, CIFAR and SVHN: read as torchvision reads them; broken ones are named with the remedy."""

from __future__ import annotations

import gzip
import pickle
import struct
from collections.abc import Callable
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest

from rsc.data import load
from rsc.errors import InputRefused, MalformedFile

FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}


def rng() -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(2))


def idx(array: np.ndarray, magic: int | None = None) -> bytes:
    head = struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim if magic is None else magic, *array.shape)
    return head + array.astype(np.uint8).tobytes()


def write_mnist(root: Path, folder: str, n: int = 6) -> Path:
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    for stem in ("train", "t10k"):
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(idx(rng().integers(0, 256, (n, 28, 28))))
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(idx(np.arange(n)))
    return raw


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_idx_files_are_read_as_torchvision_reads_them(name: str, split, tmp_path: Path) -> None:
    from torchvision import datasets

    write_mnist(tmp_path, FOLDERS[name])
    other = getattr(datasets, FOLDERS[name])(tmp_path, train=split == "train")
    ours = load(name, split, tmp_path)
    assert np.array_equal(ours.images[:, 0], other.data.numpy().astype(np.float32) / 255)
    assert np.array_equal(ours.targets, other.targets.numpy())
    assert (ours.images.dtype, ours.targets.dtype, len(ours.labels)) == (np.float32, np.int64, 10)


def test_gzipped_files_are_the_same_and_only_the_files_of_the_split_are_needed(tmp_path: Path) -> None:
    raw = write_mnist(tmp_path, "KMNIST")
    plain = load("kmnist", "test", tmp_path)
    for file in list(raw.iterdir()):
        if file.name.startswith("t10k"):
            file.with_name(file.name + ".gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    packed = load("kmnist", "test", tmp_path)
    assert np.array_equal(packed.images, plain.images)
    assert np.array_equal(packed.targets, plain.targets)
    with pytest.raises(InputRefused, match="train-images-idx3-ubyte"):
        load("kmnist", "train", tmp_path)


IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
GOOD = idx(np.zeros((6, 28, 28)))
PACKED = gzip.compress(idx(rng().integers(0, 256, (6, 28, 28))))


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        (IMAGES, b"", "ends inside its head"),
        (IMAGES, GOOD[:9], "ends inside its head"),
        (IMAGES, GOOD[:-1], "promises 4,704 bytes, it has 4,703"),
        (IMAGES, GOOD + b"x", "it has more"),
        (IMAGES, idx(np.zeros((6, 28, 28)), 0x801), "magic number 0x00000801 instead of 0x00000803"),
        (IMAGES, b"<!DOCTYPE html><html>", "magic number"),
        (IMAGES, struct.pack(">4I", 0x803, *[0xFFFFFFFF] * 3), "promises .* more than"),
        (IMAGES, idx(np.zeros((6, 14, 28))), "not 28 x 28"),
        (IMAGES, idx(np.zeros((0, 28, 28))), "holds 0 images"),
        (LABELS, idx(np.arange(5)), "5 labels for 6 images"),
        (LABELS, idx(np.full(6, 10)), "the label 10.*10 classes"),
        (IMAGES + ".gz", PACKED[: len(PACKED) // 2], "end-of-stream"),
        (IMAGES + ".gz", PACKED[:-4], "end-of-stream"),
        (IMAGES + ".gz", GOOD, "Not a gzipped file"),
        (IMAGES + ".gz", PACKED[:40] + bytes(40) + PACKED[80:], "error: Error -3|CRC check failed"),
    ],
)
def test_broken_idx_files_are_named_with_the_remedy(
    file: str, content: bytes, why: str, tmp_path: Path
) -> None:
    raw = write_mnist(tmp_path, "MNIST")
    (raw / file.removesuffix(".gz")).unlink()
    (raw / file).write_bytes(content)
    with pytest.raises(MalformedFile, match=why) as caught:
        load("mnist", "test", tmp_path)
    assert str(raw / file) in caught.value.what
    assert "Delete it and get it again: python -c" in caught.value.fix


def test_any_cut_of_a_gzipped_file_is_refused(tmp_path: Path) -> None:
    raw = write_mnist(tmp_path, "MNIST")
    (raw / IMAGES).unlink()
    for keep in range(0, len(PACKED), 97):
        (raw / f"{IMAGES}.gz").write_bytes(PACKED[:keep])
        with pytest.raises(MalformedFile):
            load("mnist", "test", tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_published_files_are_read_as_torchvision_reads_them(
    name: str, request: pytest.FixtureRequest
) -> None:
    from torchvision import datasets

    root = request.config.rootpath.parent / "shared" / "data"
    if not (root / FOLDERS[name]).exists():
        pytest.skip(f"{name} is not beside the repository")
    other = getattr(datasets, FOLDERS[name])(root, train=False)
    ours = load(name, "test", root)
    assert np.array_equal(ours.images[:, 0], other.data.numpy().astype(np.float32) / 255)
    assert np.array_equal(ours.targets, other.targets.numpy())
    mean, std = ours.mean_std()
    assert mean[0] == pytest.approx(ours.images.mean(dtype=np.float64), rel=1e-12)
    assert std[0] == pytest.approx(ours.images.std(dtype=np.float64), rel=1e-9)


Batches = dict[str, tuple[np.ndarray, np.ndarray]]


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Batches]:
    """Writes a small CIFAR whose MD5 sums torchvision takes for the published ones."""

    def write(cls: str) -> Batches:
        from torchvision import datasets

        kind, key = getattr(datasets, cls), "labels" if cls == "CIFAR10" else "fine_labels"
        folder, made = tmp_path / kind.base_folder, {}
        folder.mkdir()

        def put(name: str, value: object) -> list[str]:
            content = pickle.dumps(value)
            (folder / name).write_bytes(content)
            return [name, md5(content).hexdigest()]

        for attribute in ("train_list", "test_list"):
            sums = []
            for k, (name, _) in enumerate(getattr(kind, attribute)):
                pixels = rng().integers(0, 256, (4, 3, 32, 32), np.uint8) ^ np.uint8(k)
                labels = np.arange(4) + k
                made[name] = (pixels, labels)
                sums.append(put(name, {"data": pixels.reshape(4, -1), key: labels.tolist()}))
            monkeypatch.setattr(kind, attribute, sums)
        names = [f"class {k}" for k in range(10 if cls == "CIFAR10" else 100)]
        file, total = put(kind.meta["filename"], {kind.meta["key"]: names})
        monkeypatch.setattr(kind, "meta", {**kind.meta, "filename": file, "md5": total})
        return made

    return write


@pytest.mark.parametrize(("name", "cls"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_cifar_batches_are_read_in_order(name: str, cls: str, cifar, tmp_path: Path) -> None:
    made = cifar(cls)
    for split in ("train", "test"):
        chosen = [value for key, value in made.items() if ("test" in key) == (split == "test")]
        data = load(name, split, tmp_path)  # type: ignore[arg-type]
        expected = np.concatenate([pixels for pixels, _ in chosen]).astype(np.float32) / 255
        assert np.array_equal(data.images, expected)
        assert np.array_equal(data.targets, np.concatenate([labels for _, labels in chosen]))
        assert data.images.flags.c_contiguous
    assert data.labels[:2] == ("class 0", "class 1")


def test_a_cifar_file_with_another_sum_is_never_unpickled(cifar, tmp_path: Path) -> None:
    """A pickle that would leave a trace if it were opened."""
    cifar("CIFAR10")
    trace = tmp_path / "trace"

    class Trap:
        def __reduce__(self) -> tuple:
            return (Path.touch, (trace,))

    pickle.loads(pickle.dumps(Trap()))  # noqa: S301
    assert trace.exists(), "the trap works"
    trace.unlink()
    for file in ("data_batch_3", "batches.meta"):
        path = tmp_path / "cifar-10-batches-py" / file
        good = path.read_bytes()
        path.write_bytes(pickle.dumps(Trap()))
        with pytest.raises(MalformedFile, match=f"{file}.*MD5 is .*published") as caught:
            load("cifar10", "test", tmp_path)
        assert "Delete it and get it again" in caught.value.fix
        assert not trace.exists()
        path.write_bytes(good)


def test_a_missing_cifar_batch_is_named(cifar, tmp_path: Path) -> None:
    cifar("CIFAR10")
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").unlink()
    with pytest.raises(InputRefused, match=r"there is no '.*data_batch_2'"):
        load("cifar10", "train", tmp_path)


@pytest.fixture
def svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    from scipy.io import savemat
    from torchvision import datasets

    pixels, labels = rng().integers(0, 256, (32, 32, 3, 5), np.uint8), np.array([[1], [10], [3], [9], [10]])
    path = tmp_path / "test_32x32.mat"
    savemat(path, {"X": pixels, "y": labels.astype(np.uint8)})
    sums = {"test": ["", path.name, md5(path.read_bytes()).hexdigest()]}
    monkeypatch.setattr(datasets.SVHN, "split_list", {**datasets.SVHN.split_list, **sums})
    return pixels, labels


def test_svhn_is_turned_upright_and_its_digit_zero_is_class_zero(svhn, tmp_path: Path) -> None:
    pixels, _ = svhn
    data = load("svhn", "test", tmp_path)
    for n in range(5):
        for channel in range(3):
            assert np.array_equal(data.images[n, channel], pixels[:, :, channel, n].astype(np.float32) / 255)
    assert data.targets.tolist() == [1, 0, 3, 9, 0]


def test_a_truncated_svhn_file_is_named(svhn, tmp_path: Path) -> None:
    path = tmp_path / "test_32x32.mat"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(MalformedFile, match=r"test_32x32.mat.*MD5"):
        load("svhn", "test", tmp_path)
    with pytest.raises(InputRefused, match=r"train_32x32.mat"):
        load("svhn", "train", tmp_path)
