"""ImageNet and Tiny-ImageNet: listed and decoded as torchvision does it; broken images are named."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rsc.data import decode as decode_module
from rsc.data import load
from rsc.errors import InputRefused, MalformedFile


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Smooth enough that resizing filters differ, noisy enough that a shift shows."""
    draw = np.random.Generator(np.random.PCG64(seed)).integers(0, 256, (height, width, 4), np.uint8)
    return Image.fromarray(draw, "RGBA").convert("RGB").convert(mode)


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """Two classes; portrait, landscape, small, grey, palette and CMYK images of several formats."""
    kinds = [
        ("n02/b.JPEG", picture(50, 37, seed=1)),
        ("n02/a.JPEG", picture(31, 64, "CMYK", 2)),
        ("n02/A10.png", picture(9, 9, "L", 3)),
        ("n02/deeper/c.png", picture(40, 40, "P", 4)),
        ("n02/a2.bmp", picture(33, 100, seed=5)),
        ("n01/z.webp", picture(64, 31, seed=6)),
        ("n01/y.ppm", picture(24, 21, seed=7)),
        ("n01/x.tiff", picture(21, 24, seed=8)),
    ]
    for folder in ("train", "val"):
        for name, image in kinds:
            path = tmp_path / "imagenet" / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
        (tmp_path / "imagenet" / folder / "n01" / "notes.txt").write_text("no image")
    return tmp_path


def test_images_are_those_of_torchvision_in_its_order_and_bit_for_bit(imagenet: Path) -> None:
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    steps = [transforms.Resize(24), transforms.CenterCrop(21), transforms.ToTensor()]
    other = ImageFolder(str(imagenet / "imagenet" / "val"), transforms.Compose(steps))
    ours = load("imagenet", "test", imagenet, size=21)
    assert ours.labels == tuple(other.classes)
    assert ours.targets.tolist() == other.targets
    assert ours.images.shape == (8, 3, 21, 21)
    for k in range(8):
        assert np.array_equal(ours.images[k], other[k][0].numpy()), other.samples[k]


def test_the_usual_size_is_the_middle_224_of_256(imagenet: Path) -> None:
    from torchvision import transforms

    data = load("imagenet", "train", imagenet)
    image: Any = Image.open(imagenet / "imagenet" / "train" / "n01" / "x.tiff")
    for step in (transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()):
        image = step(image)
    assert np.array_equal(data.images[0], image.numpy())


def test_a_sample_does_not_depend_on_what_was_read_before(imagenet: Path) -> None:
    data = load("imagenet", "train", imagenet, size=16)
    whole = data.images[:]
    for order in ([5, 1, 7, 1], [7, 6, 5, 4, 3, 2, 1, 0]):
        again = load("imagenet", "train", imagenet, size=16)
        assert np.array_equal(again.images[np.array(order)], whole[order])


def test_loading_decodes_nothing(imagenet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", None)
    assert len(load("imagenet", "train", imagenet).head(3).images) == 3


def test_validation_classes_are_numbered_as_in_training(imagenet: Path) -> None:
    shutil.rmtree(imagenet / "imagenet" / "val" / "n01")
    test = load("imagenet", "test", imagenet)
    assert set(test.targets) == {1}
    assert test.labels == ("n01", "n02")
    (imagenet / "imagenet" / "val" / "n02").rename(imagenet / "imagenet" / "val" / "n03")
    with pytest.raises(MalformedFile, match=r"val/n03'.*no such class"):
        load("imagenet", "test", imagenet)


def test_validation_images_alone_are_enough(imagenet: Path) -> None:
    shutil.rmtree(imagenet / "imagenet" / "train")
    assert load("imagenet", "test", imagenet).labels == ("n01", "n02")
    with pytest.raises(InputRefused, match=r"there is no '.*imagenet/train'"):
        load("imagenet", "train", imagenet)


def test_an_empty_class_is_named(imagenet: Path) -> None:
    (imagenet / "imagenet" / "train" / "n05").mkdir()
    with pytest.raises(InputRefused, match=r"there is no '.*n05/\*.jpeg'"):
        load("imagenet", "train", imagenet)


def saved(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


JPEG, PNG = saved(picture(40, 40), "JPEG"), saved(picture(40, 40), "PNG")
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "cannot identify"),
        (b"<html>", "cannot identify"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (PNG[: len(PNG) // 2], "truncated"),
        (PNG[:60] + b"\0\0\0\0" + PNG[64:], "PNG|truncated|broken"),
        (PNG[:20], ""),
        (EPS, "cannot identify"),
        (saved(picture(2, 4000), "PNG"), "too narrow"),
    ],
)
def test_unreadable_images_are_named_when_they_are_read(imagenet: Path, content: bytes, why: str) -> None:
    path = imagenet / "imagenet" / "train" / "n02" / "a.JPEG"
    path.write_bytes(content)
    data = load("imagenet", "train", imagenet, size=512)
    with pytest.raises(MalformedFile, match=why or None) as caught:
        data.images[3:]
    assert data.images[0].shape == (3, 512, 512), "the others are read"
    assert str(path) in caught.value.what
    assert "get it again" in caught.value.fix


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(imagenet: Path, monkeypatch) -> None:
    monkeypatch.setattr(decode_module, "MAX_PIXELS", 1000)
    monkeypatch.setattr(Image.Image, "convert", None)
    with pytest.raises(MalformedFile, match="50 x 37 pixels, more than 1,000"):
        load("imagenet", "train", imagenet, size=8).images[6]


def test_an_image_that_went_away_is_named(imagenet: Path) -> None:
    data = load("imagenet", "train", imagenet)
    (imagenet / "imagenet" / "train" / "n01" / "x.tiff").unlink()
    with pytest.raises(InputRefused, match=r"there is no '.*x.tiff'"):
        data.images[0]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Tiny-ImageNet as it is published: val/images and a table, words.txt, grey images among the others."""
    top = tmp_path / "tiny-imagenet-200"
    for k, name in enumerate(("n09", "n04")):
        for i in range(3):
            path = top / "train" / name / "images" / f"{name}_{i}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(64, 64, "L" if i == 1 else "RGB", 10 * k + i).save(path)
    (top / "val" / "images").mkdir(parents=True)
    rows = [("val_2.JPEG", "n04"), ("val_0.JPEG", "n09"), ("val_10.JPEG", "n04")]
    for k, (name, _) in enumerate(rows):
        picture(64, 64, seed=50 + k).save(top / "val" / "images" / name)
    table = "".join(f"{name}\t{label}\t0\t32\t44\t62\n" for name, label in rows)
    (top / "val" / "val_annotations.txt").write_text(table)
    (top / "words.txt").write_text("n04\ttabby, tabby cat\nn99\tunused\n")
    return tmp_path


def test_tiny_imagenet_is_read_by_its_table(tiny: Path) -> None:
    test, folder = load("tiny-imagenet", "test", tiny), tiny / "tiny-imagenet-200" / "val" / "images"
    assert test.labels == ("tabby, tabby cat", "n09")
    assert test.targets.tolist() == [0, 1, 0]
    for k, name in enumerate(("val_2.JPEG", "val_0.JPEG", "val_10.JPEG")):
        pixels = np.asarray(Image.open(folder / name), np.float32) / 255
        assert np.array_equal(test.images[k], pixels.transpose(2, 0, 1)), "64 x 64 images stay as they are"


def test_tiny_imagenet_trains_on_folders_and_grey_images_get_three_channels(tiny: Path) -> None:
    train = load("tiny-imagenet", "train", tiny)
    assert train.targets.tolist() == [0, 0, 0, 1, 1, 1]
    grey = train.images[1]
    assert np.array_equal(grey[0], grey[2])
    assert load("tiny-imagenet", "train", tiny, size=32).images.shape == (6, 3, 32, 32)


def test_tiny_imagenet_sorted_into_folders_is_the_same(tiny: Path) -> None:
    before, val = load("tiny-imagenet", "test", tiny).images[:], tiny / "tiny-imagenet-200" / "val"
    for name, label in (("val_2", "n04"), ("val_0", "n09"), ("val_10", "n04")):
        (val / label).mkdir(exist_ok=True)
        (val / "images" / f"{name}.JPEG").rename(val / label / f"{name}.JPEG")
    (val / "images").rmdir()
    (val / "val_annotations.txt").unlink()
    after = load("tiny-imagenet", "test", tiny)
    assert after.targets.tolist() == [0, 0, 1]
    assert np.array_equal(after.images[:], before[[2, 0, 1]]), "val_10 sorts before val_2"


@pytest.mark.parametrize(
    ("table", "error", "why"),
    [
        ("", MalformedFile, "lists no images"),
        ("val_0.JPEG\n", MalformedFile, "Line 1 is not"),
        ("val_0.JPEG\tn04\n../../x.JPEG\tn04\n", MalformedFile, "Line 2 is not"),
        ("val_0.JPEG\tn77\n", MalformedFile, "'n77', which train has not"),
        ("val_1.JPEG\tn04\n", InputRefused, r"there is no '.*val_1.JPEG'"),
        (b"\xff\xfe\x00", MalformedFile, "UnicodeDecodeError"),
    ],
)
def test_a_broken_table_is_named_by_its_line(tiny: Path, table, error: type[Exception], why: str) -> None:
    path = tiny / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    path.write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(error, match=why):
        load("tiny-imagenet", "test", tiny)
