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
    "n-mnist": ((2, 32, 32), 10),
    "dvs-gesture": ((2, 32, 32), 11),
    "cifar10-dvs": ((2, 64, 64), 10),
}
SMALL = [path for path in RECIPES if not path.stem.startswith(("tiny_imagenet", "imagenet"))]


def synthetic(config: TrainConfig, n: int = 8) -> Dataset:
    """Random images, or counts, of the right shape."""
    shape, classes = SHAPES[config.dataset]
    rng, frames = np.random.default_rng(0), config.encoder.frames
    images = rng.random((n, *shape), np.float32)
    if frames:
        images = rng.poisson(0.3, (n, config.encoder.steps, *shape)).astype(np.float32)
    labels = tuple(str(k) for k in range(classes))
    targets, bounds = rng.integers(0, classes, n), (0.0, 65535.0 if frames else 1.0)
    return Dataset(config.dataset, "train", images, targets, np.arange(n), bounds, labels, frames)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_builds_the_network_of_its_data_set(path: Path, tmp_path: Path) -> None:
    config = read_config(path)
    assert config.dataset in DATASETS
    shape, classes = SHAPES[config.dataset]
    steps, mean = config.encoder.steps, (0.5,) * shape[0]
    with torch.device("meta"):
        network = build(config.network, shape, classes)
        frames = torch.zeros(steps, 2, *shape)
        if not config.encoder.frames:
            frames = encode_torch(config.encoder.spec(mean, mean), frames[0], None)
    assert network(frames).shape == (steps, 2, classes)
    again = tmp_path / "resolved.toml"
    again.write_text(resolved(config), encoding="utf-8")
    assert read_config(again) == config


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_ask_for_samples_that_their_set_has(path: Path) -> None:
    """Sizes and steps are options of the set; event sets are fed as they are, and no others."""
    config, options = read_config(path), DATASETS[read_config(path).dataset].options
    assert config.size is None or "size" in options
    assert config.encoder.frames == ("steps" in options)
    if config.size is not None:
        assert SHAPES[config.dataset][0][1:] == (config.size, config.size)


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
