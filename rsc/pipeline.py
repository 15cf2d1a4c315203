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
from rsc.data import Dataset, load
from rsc.errors import UnsupportedNode
from rsc.export.to_nir import to_program
from rsc.files import atomic_folder, make_parents
from rsc.program import EncoderSpec, Program
from rsc.robustness.attacks import Fgsm, Pgd
from rsc.robustness.ball import parse_eps
from rsc.robustness.eot import Eot
from rsc.robustness.evaluate import measure, score
from rsc.robustness.model import ModuleModel, from_module, stream_generator
from rsc.robustness.results import Scores
from rsc.training import EpochStats, RunFolder, TrainConfig, Trained, fit
from rsc.training.qat import FineTuned, LayerRow, fine_tune
from rsc.training.run_folder import copy_run

CARD_DRAWS = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Packed:
    """A trained model on its way to a bundle.

    Fields:
        trained: network, encoder and log.
        program: what is deployed; None for an ANN, which NIR targets here do not run.
        clean: accuracies on the held-out split.
        test: that split.
        integers: what fine-tuning on integers left of each layer; () without it.
    """

    trained: Trained
    program: Program | None
    clean: Scores
    test: Dataset
    model: ModuleModel
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
    return load(config.dataset, "train", root), load(config.dataset, "test", root)


def train_network(
    config: TrainConfig,
    data: Dataset,
    on_epoch: Callable[[EpochStats], None] = lambda stats: None,
    run: RunFolder | None = None,
) -> Trained:
    """`fit`, with attacks on held-out images where the configuration asks for them."""
    probe = attack_probe(config) if config.robustness.every else None
    return fit(config, data, on_epoch, run=run, probe=probe)


def pack(
    trained: Trained,
    config: TrainConfig,
    name: str,
    splits: tuple[Dataset, Dataset],
    steps: int | None = None,
) -> Packed:
    """Lower to a program and measure clean accuracy; arguments as in `train`."""
    data, test = splits
    tuned = fine_tuned(trained, config, data) if config.qat.target else None
    trained = trained if tuned is None else tuned.trained
    encoder = msgspec.structs.replace(trained.encoder, steps=steps or trained.encoder.steps)
    trained = dataclasses.replace(trained, encoder=encoder)
    program = tuned.program if tuned is not None else None
    if program is None and config.network.neuron != "relu":
        program = to_program(
            trained.network,
            data.images.shape[1:],
            encoder,
            dt=config.dt,
            bounds=data.bounds,
            labels=data.labels,
        )
    model = from_module(trained.network, encoder, data.bounds, name=name)
    draws = CARD_DRAWS if encoder.stochastic else 1
    clean = score(model, test.images, test.targets, draws, samples=test.ids)
    return Packed(trained, program, clean, test, model, tuned.rows if tuned is not None else ())


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
        | ({"integer_layers": plain(packed.integers)} if packed.integers else {}),
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
