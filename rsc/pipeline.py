"""From a training configuration to a bundle with its first measured figures."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from rsc import __version__
from rsc.bundle import Bundle
from rsc.data import DATASETS, Dataset, LazyImages, load
from rsc.errors import UnsupportedNode, UsageError
from rsc.files import atomic_folder, make_parents
from rsc.program import EncoderSpec, Program
from rsc.results import Keys
from rsc.robustness.attacks import Fgsm, Pgd
from rsc.robustness.ball import parse_eps
from rsc.robustness.eot import Eot
from rsc.robustness.evaluate import measure
from rsc.robustness.model import from_module, stream_generator
from rsc.robustness.results import Scores
from rsc.training import EpochStats, RunFolder, TrainConfig, Trained, fit
from rsc.training.deployed import program_of
from rsc.training.progress import Watcher, nobody
from rsc.training.qat import FineTuned, LayerRow, fine_tune
from rsc.training.run_folder import copy_run

CARD_DRAWS = 8
_AT_ONCE = 1024  # samples decoded together


@dataclasses.dataclass(frozen=True, eq=False)
class FramesModel:
    """A network that is fed samples of ready-made frames, as something that predicts.

    Fields:
        module: frames [T, B, ...] -> outputs [T, B, K], in eval mode.
    """

    module: Callable[[torch.Tensor], torch.Tensor]
    name: str = "model"

    def __call__(self, x: np.ndarray, keys: Keys) -> np.ndarray:
        """Classes int64 [B] of samples [B, T, ...]; there is no noise that keys could choose."""
        frames = torch.from_numpy(np.ascontiguousarray(x, np.float32)).transpose(0, 1)
        with torch.no_grad():
            return self.module(frames).mean(0).argmax(1).numpy()


@dataclasses.dataclass(frozen=True, eq=False)
class Packed:
    """A trained model on its way to a bundle.

    Fields:
        trained: network, encoder and log.
        model: what predicts; a FramesModel where frames are fed.
        program: what is deployed; None for an ANN, which NIR targets here do not run.
        clean: accuracies on the held-out split.
        test: that split.
        integers: what fine-tuning on integers left of each layer; () without it.
    """

    trained: Trained
    program: Program | None
    clean: Scores
    test: Dataset
    model: Any  # ModuleModel | FramesModel; a union would ask every user of images for a cast
    integers: tuple[LayerRow, ...] = ()


def train(
    config: TrainConfig,
    name: str,
    *,
    steps: int | None = None,
    on_epoch: Callable[[EpochStats], None] = lambda stats: None,
) -> Packed:
    """Train, lower to a program and measure clean accuracy on the held-out split.

    Args:
        steps: time steps at evaluation, if other than in training (an ANN averaged over T noisy passes
            is trained on single passes).

    Raises:
        RscError: bad configuration, missing data, diverging training.
    """
    splits = load_splits(config)
    return pack(train_network(config, splits[0], on_epoch), config, name, splits, steps)


def load_splits(config: TrainConfig) -> tuple[Dataset, Dataset]:
    """The training and the test split of a configuration.

    Raises:
        RscError: the data set is not there.
    """
    root = Path(config.data_root) if config.data_root else None
    entry = DATASETS.get(config.dataset)
    timed = config.encoder.frames and entry is not None and "steps" in entry.options
    steps = config.encoder.steps if timed else None
    train, test = (load(config.dataset, s, root, size=config.size, steps=steps) for s in ("train", "test"))
    return train, test


def train_network(
    config: TrainConfig,
    data: Dataset,
    on_epoch: Callable[[EpochStats], None] = lambda stats: None,
    run: RunFolder | None = None,
    watcher: Watcher = nobody,
) -> Trained:
    """`fit`, with attacks on held-out images where the configuration asks for them."""
    probe = attack_probe(config) if config.robustness.every else None
    return fit(config, data, on_epoch, run=run, probe=probe, watcher=watcher)


def pack(
    trained: Trained,
    config: TrainConfig,
    name: str,
    splits: tuple[Dataset, Dataset],
    steps: int | None = None,
) -> Packed:
    """Lower to a program and measure clean accuracy; arguments as in `train`.

    Raises:
        UsageError: other steps were asked for than those of ready-made frames.
    """
    data, test = splits
    tuned = fine_tuned(trained, config, data) if config.qat.target else None
    trained = trained if tuned is None else tuned.trained
    trained = _with_steps(trained, steps)
    encoder = trained.encoder
    program = tuned.program if tuned is not None else None
    if program is None and config.network.neuron != "relu":
        program = program_of(trained.network, encoder, data, config.dt)
    model = FramesModel(trained.network, name)
    if encoder is not None:
        model = from_module(trained.network, encoder, data.bounds, name=name)
    draws = CARD_DRAWS if encoder is not None and encoder.stochastic else 1
    clean = clean_scores(model, test, draws)
    return Packed(trained, program, clean, test, model, tuned.rows if tuned is not None else ())


def _with_steps(trained: Trained, steps: int | None) -> Trained:
    if steps is None:
        return trained
    if trained.encoder is None:
        raise UsageError(
            f"{steps} time steps were asked for.", "Ready-made frames have their own T.", "Leave it out."
        )
    return dataclasses.replace(trained, encoder=msgspec.structs.replace(trained.encoder, steps=steps))


def clean_scores(predict: Any, data: Dataset, draws: int) -> Scores:
    """Accuracies on a split; what is decoded on demand is decoded in parts."""
    step = _AT_ONCE if isinstance(data.images, LazyImages) else max(1, len(data))
    parts = [
        measure(predict, data.images[cut], data.targets[cut], draws, samples=data.ids[cut])
        for cut in (slice(at, at + step) for at in range(0, len(data), step))
    ]
    classes, y = np.concatenate([p.classes for p in parts], 1), np.concatenate([p.y for p in parts])
    return dataclasses.replace(parts[0], classes=classes, y=y).scores()


def fine_tuned(
    trained: Trained,
    config: TrainConfig,
    data: Dataset,
    on_epoch: Callable[[EpochStats], None] = lambda stats: None,
) -> FineTuned:
    """The network fine-tuned on the grid that `config.qat` names."""
    how = config.qat
    return fine_tune(
        trained,
        config,
        data,
        bits=how.bits,
        mode=how.mode,
        epochs=how.epochs,
        lr=how.lr or None,
        on_epoch=on_epoch,
    )


def attack_probe(config: TrainConfig) -> Callable[..., dict[str, float]]:
    """A look at robustness for `fit`: accuracy of single runs on clean images, under FGSM and EOT-PGD."""
    how = config.robustness
    attacks = (Fgsm(), Pgd(steps=how.steps))
    radius, _ = parse_eps(how.eps)

    def look(forward: Any, encoder: EncoderSpec, data: Dataset, device: torch.device) -> dict[str, float]:
        model = from_module(forward, encoder, data.bounds, name="in training")
        x = torch.from_numpy(np.ascontiguousarray(data.images[: len(data)])).to(device)
        y = torch.from_numpy(data.targets).to(device)
        found = {"clean": x}
        for attack in attacks:
            generator = stream_generator(config.seed, "attack", device)
            eot = Eot(model, how.eot)
            found[attack.name] = attack(eot, x, y, radius, generator=generator).x
        return {
            name: float(measure(model, images, y, how.draws, config.seed, samples=data.ids).right.mean())
            for name, images in found.items()
        }

    return look


def plain(value: Any) -> Any:
    """A value as JSON gives it back: mappings, lists, text and numbers."""
    return msgspec.json.decode(msgspec.json.encode(value))


def to_bundle(packed: Packed, config: TrainConfig, name: str) -> Bundle:
    """The bundle of a spiking model.

    Raises:
        UnsupportedNode: the model has no program (an ANN).
    """
    if packed.program is None:
        raise UnsupportedNode(
            "An ANN has no deployable program.", "ReLU is no NIR neuron.", "Use neuron='lif'."
        )
    state = {key: value.detach().cpu().numpy() for key, value in packed.trained.network.state_dict().items()}
    accuracy = {"per_run": packed.clean.per_run, "vote": packed.clean.vote}
    return Bundle(
        name=name,
        program=packed.program,
        state={key: np.ascontiguousarray(value) for key, value in state.items()},
        config=plain(config),
        metrics={f"clean_accuracy_{key}": plain(value) for key, value in accuracy.items()}
        | {"test_images": len(packed.test), "training_wall_s": round(packed.trained.wall_s, 2)}
        | ({"integer_layers": plain(packed.integers)} if packed.integers else {})
        | plain(packed.trained.facts),
        made_with={
            "rsc-snn": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    )


def save_run(bundle: Bundle, out: Path) -> None:
    """Turn the folder of a run into a bundle that also holds the run's log and checkpoints, in one step.

    Raises:
        StorageError: it could not be written; the run is as it was.
    """
    make_parents(out)
    with atomic_folder(out) as folder:
        bundle.save(folder)
        copy_run(out, folder)
