"""The one value behind every report: what was measured, where, on how much, and what was left out.

JSON is this value; HTML, Markdown and the terminal tables are functions of it. Every section may be
empty, so that one verb of the command line can print its own part as a `Report` too.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from rsc.energy.results import EnergyReport
from rsc.parity_results import ParityRow
from rsc.robustness.results import Accuracy, CertifyReport, RobustnessReport
from rsc.robustness.verify_results import VerifyReport

SCHEMA_VERSION = 1

Role = Literal["rsc", "direct", "ann", "smoothed-ann", "other"]


class Environment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the numbers were made.

    Fields:
        python, platform: of the interpreter and the machine.
        cpu_count: logical processors; threads: how many torch used, 0 if not known.
        versions: package -> version ("rsc-snn", "torch", "numpy", "nir", ...).
    """

    python: str
    platform: str
    cpu_count: int
    threads: int = 0
    versions: dict[str, str] = {}


class DatasetInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which images: name, sizes of the splits, (lowest, highest) pixel value, class names."""

    name: str
    n_train: int
    n_test: int
    bounds: tuple[float, float]
    labels: tuple[str, ...] = ()


class TrainingSummary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model was trained: epochs, mean loss of each epoch, seconds, seed."""

    epochs: int
    losses: tuple[float, ...] = ()
    wall_s: float = 0.0
    seed: int | None = None


class InferenceCost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one decision costs, means over the images; None where it was not counted.

    Fields:
        passes: network passes (runs of T steps) behind one decision, K of a vote of K.
        macs: multiply-accumulates; sops: synaptic operations (accumulates); kept apart on purpose.
        neuron_updates: neurons * T * passes.
        encoder_draws: random numbers the encoder draws.
    """

    passes: int = 1
    macs: float | None = None
    sops: float | None = None
    neuron_updates: float | None = None
    encoder_draws: float | None = None


class ModelSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model of the comparison.

    Fields:
        name: as in `RobustnessReport.model`, e.g. "RSC-II", "direct SNN", "ANN", "smoothed ANN".
        role: what it is in the comparison; `conclude` compares "rsc" with "direct" and "smoothed-ann".
        description: one sentence.
        encoder: the EncoderSpec as plain values; empty if there is none.
        per_run, vote: clean accuracies, expected over the encoder's noise and of the vote.
        params: trained parameters.
        cost: what one decision costs.
        program_digest: SHA-256 of the deployed program; ties the model to its energy reports.
    """

    name: str
    role: Role = "other"
    description: str = ""
    encoder: dict[str, Any] = {}
    per_run: Accuracy | None = None
    vote: Accuracy | None = None
    training: TrainingSummary | None = None
    params: int = 0
    cost: InferenceCost | None = None
    program_digest: str = ""


class TargetRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One target: what a model does on it, or why it was not run.

    Fields:
        spec: the target as the user wrote it, e.g. "loihi" or "torch:cuda".
        arithmetic: "float64", "float32" or "integer".
        n: images run; accuracy: of those.
        wall_s: seconds in the target, compilation excluded; ms_per_image: the same per image and pass.
        reason, fix: why it is not available and how to get it.
        model: name of the model that ran; seed: of the encoder's noise.
        saturated: how often a state or input hit the limits of its representation.
    """

    spec: str
    available: bool
    version: str = ""
    arithmetic: str = ""
    n: int = 0
    accuracy: Accuracy | None = None
    wall_s: float | None = None
    ms_per_image: float | None = None
    reason: str = ""
    fix: str = ""
    model: str = ""
    seed: int | None = None
    saturated: int = 0


class QuantisedLayer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What quantisation did to one layer.

    Fields:
        scale: integer weight units per unit of the float program.
        weight_bits: bits of a weight, sign included.
        max_weight_error, mean_weight_error: |float - dequantised|, in units of the float program.
        bias_error: largest |float - dequantised| of the bias, in units of the float program.
        saturations: weights and biases clipped to the limits of the grid.
        model, target: whose layer, and where.
    """

    layer: str
    scale: float
    weight_bits: int
    max_weight_error: float
    mean_weight_error: float
    bias_error: float
    saturations: int
    model: str = ""
    target: str = ""


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything one experiment found.

    Fields:
        title: one line.
        created: UTC in ISO 8601, e.g. "2026-11-23T07:00:00Z".
        environment: where the numbers were made; None if the report is a part of another.
        command: how to make it again.
        config: the configuration as it was given, echoed.
        dataset, models, targets, parity, quantisation, energy, robustness, certificates, verification: the
            sections.
        conclusions: sentences that `conclude` computes from the numbers.
        not_done: what a reader may expect and will not find.
        schema_version: of this layout.
    """

    title: str
    created: str
    environment: Environment | None = None
    command: str = ""
    config: dict[str, Any] = {}
    dataset: DatasetInfo | None = None
    models: tuple[ModelSection, ...] = ()
    targets: tuple[TargetRow, ...] = ()
    parity: tuple[ParityRow, ...] = ()
    quantisation: tuple[QuantisedLayer, ...] = ()
    energy: tuple[EnergyReport, ...] = ()
    robustness: tuple[RobustnessReport, ...] = ()
    certificates: tuple[CertifyReport, ...] = ()
    conclusions: tuple[str, ...] = ()
    not_done: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION
    verification: tuple[VerifyReport, ...] = ()
