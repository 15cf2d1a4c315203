"""ImageNet and Tiny-ImageNet: folders of image files, decoded when they are asked for."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from rsc.data.dataset import Dataset, Split
from rsc.data.decode import SUFFIXES, decode
from rsc.data.lazy import LazyImages
from rsc.data.source import Place

Sample = tuple[str, int]  # path, class


def read_imagenet(place: Place, split: Split, size: int = 224) -> Dataset:
    """ImageNet (ILSVRC 2012) in torchvision's ImageFolder layout; its validation images are the test split.

    <root>/imagenet/{train,val}/<class>/**/<image>. Classes are the sorted names of the folders in train (in
    val if there is no train). The shorter side becomes size * 8/7 (256 for 224), the middle is cut out.

    Raises:
        InputRefused: a folder is missing or has no images, or val has a class that train has not.
    """
    top = place.root / "imagenet"
    folder = top / ("train" if split == "train" else "val")
    known = _class_folders(place, top / "train" if (top / "train").is_dir() else folder)
    samples = _image_folder(place, folder, known)
    return _lazy(place, split, samples, tuple(known), round(size * 8 / 7), size)


def read_tiny_imagenet(place: Place, split: Split, size: int = 64) -> Dataset:
    """Tiny-ImageNet, 200 classes of 64 x 64 images; its validation images are the test split.

    <root>/tiny-imagenet-200/train/<wnid>/images/*, and val as it is published (val/images/* with
    val/val_annotations.txt) or sorted into folders of classes. Class names are those of words.txt if there.

    Raises:
        InputRefused: a file or folder is missing.
        MalformedFile: val_annotations.txt or words.txt cannot be understood.
    """
    top = place.root / "tiny-imagenet-200"
    known = _class_folders(place, top / "train")
    if split == "test" and (top / "val" / "val_annotations.txt").is_file():
        samples = _annotated(place, top / "val", known)
    else:
        samples = _image_folder(place, top / ("train" if split == "train" else "val"), known)
    return _lazy(place, split, samples, _words(place, top / "words.txt", known), size, size)


def _class_folders(place: Place, folder: Path) -> dict[str, int]:
    """Class name -> number, in sorted order."""
    if not folder.is_dir():
        raise place.missing(folder)
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    except OSError as error:
        raise place.unreadable(folder, error) from error
    if not names:
        raise place.missing(folder / "<class>")
    return {name: k for k, name in enumerate(names)}


def _image_folder(place: Place, folder: Path, known: dict[str, int]) -> list[Sample]:
    """The images under <folder>/<class>, in the order of torchvision.datasets.ImageFolder."""
    found = []
    for name in _class_folders(place, folder):
        if name not in known:
            raise place.corrupt(folder / name, "The training images have no such class.")
        before = len(found)
        for parent, _, files in sorted(os.walk(folder / name, onerror=_raise, followlinks=True)):
            images = (f for f in sorted(files) if f.lower().endswith(SUFFIXES))
            found += [(os.path.join(parent, f), known[name]) for f in images]
        if len(found) == before:
            raise place.missing(folder / name / f"*{SUFFIXES[1]}")
    return found


def _raise(error: OSError) -> None:
    raise error


def _annotated(place: Place, folder: Path, known: dict[str, int]) -> list[Sample]:
    """The images that <folder>/val_annotations.txt lists (name, class, box), in its order."""
    path, found = folder / "val_annotations.txt", []
    for k, fields in enumerate(_table(place, path), 1):
        if len(fields) < 2 or os.path.basename(fields[0]) != fields[0]:
            raise place.corrupt(path, f"Line {k} is not 'file, class, box'.")
        image = folder / "images" / fields[0]
        if fields[1] not in known:
            raise place.corrupt(path, f"Line {k} names the class '{fields[1]}', which train has not.")
        if not image.is_file():
            raise place.missing(image)
        found.append((str(image), known[fields[1]]))
    if not found:
        raise place.corrupt(path, "It lists no images.")
    return found


def _words(place: Place, path: Path, known: dict[str, int]) -> tuple[str, ...]:
    """Names of the classes for people; their identifiers where no words are known."""
    words = {f[0]: f[1] for f in _table(place, path) if len(f) > 1} if path.is_file() else {}
    return tuple(words.get(name, name) for name in known)


def _table(place: Place, path: Path) -> list[list[str]]:
    """Fields of the lines of a file of tab-separated values."""
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise place.unreadable(path, error) from error
    return [line.split("\t") for line in text.splitlines() if line.strip()]


def _lazy(
    place: Place, split: Split, samples: list[Sample], labels: tuple[str, ...], resize: int, size: int
) -> Dataset:
    paths = [path for path, _ in samples]
    ids = np.arange(len(paths))
    images = LazyImages(lambda k: decode(place, paths[k], resize, size), (3, size, size), ids)
    targets = np.array([target for _, target in samples], np.int64)
    return Dataset(place.name, split, images, targets, ids, (0, 1), labels)
