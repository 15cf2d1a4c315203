"""The four networks of the demo: how they are trained, and what a report says of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from rsc import pipeline
from rsc.energy.results import EnergyReport
from rsc.errors import RscError
from rsc.export.loihi import lower, quantisation_table
from rsc.networks import NetworkSpec
from rsc.pipeline import plain
from rsc.program import Program
from rsc.progress import Progress
from rsc.quantiser import Quantiser
from rsc.report.value import InferenceCost, ModelSection, QuantisedLayer, Role, TrainingSummary
from rsc.training import EncoderConfig, TrainConfig

STEPS, SIGMA = 8, 0.35


@dataclasses.dataclass(frozen=True, eq=False)
class DemoModel:
    """One network of the comparison, trained."""

    name: str
    role: Role
    description: str
    config: TrainConfig
    packed: pipeline.Packed


def networks(seed: int, epochs: int) -> list[tuple[str, Role, str, TrainConfig, int | None]]:
    """Name, role, description, configuration and passes of each network."""

    def config(kind: str, steps: int, sigma: float, neuron: str = "lif") -> TrainConfig:
        return TrainConfig(
            network=NetworkSpec(neuron=neuron),
            encoder=EncoderConfig(kind, steps, sigma),  # type: ignore[arg-type]
            epochs=epochs,
            seed=seed,
            threads=1,
        )

    noise = f"Gaussian noise of sigma {SIGMA:g}"
    return [
        (
            "RSC-II",
            "rsc",
            f"Spiking, fresh {noise} at each of {STEPS} steps.",
            config("rsc2", STEPS, SIGMA),
            None,
        ),
        (
            "direct SNN",
            "direct",
            f"The same network, {STEPS} steps, no noise.",
            config("direct", STEPS, 0.0),
            None,
        ),
        (
            "ANN",
            "ann",
            "The same topology with ReLU, one pass, no noise.",
            config("direct", 1, 0.0, "relu"),
            None,
        ),
        (
            "smoothed ANN",
            "smoothed-ann",
            f"That ANN trained and run under the same {noise}, logits averaged over {STEPS} passes.",
            config("rsc2", 1, SIGMA, "relu"),
            STEPS,
        ),
    ]


def train(entry: tuple[str, Role, str, TrainConfig, int | None], listener: Progress) -> DemoModel:
    """Train one of `networks`."""
    name, role, description, config, steps = entry
    listener.stage(f"training {name}")
    packed = pipeline.train(
        config, name, steps=steps, on_epoch=lambda stats: listener.advance(stats.epoch, stats.epochs)
    )
    return DemoModel(name, role, description, config, packed)


def program_of(model: DemoModel) -> Program:
    """The program of a spiking network; RscError for an ANN."""
    if model.packed.program is None:
        raise RscError(
            f"Model '{model.name}' has no program.", "It has no spiking neurons.", "Use neuron='lif'."
        )
    return model.packed.program


def section(model: DemoModel, energy: Sequence[EnergyReport]) -> ModelSection:
    """What a report says of a network and of the cost of a decision."""
    packed, trained = model.packed, model.packed.trained
    history = trained.history
    return ModelSection(
        name=model.name,
        role=model.role,
        description=model.description,
        encoder=plain(trained.encoder),
        per_run=packed.clean.per_run,
        vote=packed.clean.vote if trained.encoder.stochastic else None,
        training=TrainingSummary(
            len(history), tuple(s.loss for s in history), trained.wall_s, model.config.seed
        ),
        params=sum(p.numel() for p in trained.network.parameters()),
        cost=_cost(model, energy),
        program_digest=packed.program.digest if packed.program else "",
    )


def _cost(model: DemoModel, energy: Sequence[EnergyReport]) -> InferenceCost:
    """Of one pass; the ANN's MACs are those of the same topology, once per noisy pass."""
    own = next(
        (e for e in energy if model.packed.program and e.program_digest == model.packed.program.digest), None
    )
    if own is not None:
        totals = own.totals
        return InferenceCost(1, totals.mac, totals.sop, totals.updates, float(own.encoder.draws))
    passes = model.packed.trained.encoder.steps
    pixels = int(np.prod(model.packed.test.images.shape[1:]))
    draws = passes * pixels if model.packed.trained.encoder.stochastic else 0
    return InferenceCost(passes, float(passes * energy[0].totals.dense), 0.0, None, float(draws))


def quantisation(program: Program, name: str) -> tuple[QuantisedLayer, ...]:
    """What the Loihi form did to the weights of each layer."""
    rules = program.quantiser or Quantiser()
    rows = quantisation_table(lower(program, "float"), lower(program, "integer"), rules)
    return tuple(
        QuantisedLayer(
            layer=row.layer,
            scale=row.scale,
            weight_bits=rules.bits,
            max_weight_error=row.weight_error_max,
            mean_weight_error=row.weight_error_mean,
            bias_error=row.bias_error_max,
            saturations=row.saturations,
            model=name,
            target="loihi",
        )
        for row in rows
    )
