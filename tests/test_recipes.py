"""Every configuration in examples/configs is one that can be trained: read, built, stepped, written back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from rsc.coding import encode_torch
from rsc.data import DATASETS, Dataset
from rsc.networks import build
from rsc.training import TrainConfig, fit, read_config
from rsc.training.config import resolved

RECIPES = sorted((Path(__file__).parent.parent / "examples/configs").glob("*.toml"))
SHAPES = {
    "digits": ((1, 8, 8), 10),
    "fashion-mnist": ((1, 28, 28), 10),
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
    "tiny-imagenet": ((3, 64, 64), 200),
    "imagenet": ((3, 224, 224), 1000),
}
SMALL = [path for path in RECIPES if not path.stem.startswith(("tiny_imagenet", "imagenet"))]


def synthetic(config: TrainConfig, n: int = 8) -> Dataset:
    """Random images of the right shape."""
    shape, classes = SHAPES[config.dataset]
    rng = np.random.default_rng(0)
    images = rng.random((n, *shape), np.float32)
    labels = tuple(str(k) for k in range(classes))
    return Dataset(
        config.dataset, "train", images, rng.integers(0, classes, n), np.arange(n), (0.0, 1.0), labels
    )


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_builds_the_network_of_its_data_set(path: Path, tmp_path: Path) -> None:
    config = read_config(path)
    assert config.dataset in DATASETS
    shape, classes = SHAPES[config.dataset]
    mean = (0.5,) * shape[0]
    encoder = config.encoder.spec(mean, mean)
    with torch.device("meta"):
        network = build(config.network, shape, classes)
        x = torch.zeros(2, *shape)
    assert network(encode_torch(encoder, x, None)).shape == (encoder.steps, 2, classes)
    again = tmp_path / "resolved.toml"
    again.write_text(resolved(config), encoding="utf-8")
    assert read_config(again) == config


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_recipes_of_small_images_train_a_step(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One epoch of one batch on the CPU; large networks an eighth as wide, the rest as it stands."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = read_config(path)
    width = config.network.width if config.network.name == "convnet" else config.network.width / 8
    teacher = msgspec.structs.replace(config.objective.teacher, epochs=1)
    config = msgspec.structs.replace(
        config,
        device="cpu",
        epochs=1,
        batch_size=8,
        threads=1,
        workers=0,
        network=msgspec.structs.replace(config.network, width=width),
        encoder=msgspec.structs.replace(config.encoder, steps=2),
        validation=msgspec.structs.replace(config.validation, fraction=0.0),
        objective=msgspec.structs.replace(config.objective, teacher=teacher),
    )
    trained = fit(config, synthetic(config))
    assert len(trained.history) == 1
    assert np.isfinite(trained.history[0].loss)
    assert dataclasses.is_dataclass(trained)
