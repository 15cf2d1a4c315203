"""Scoring on noise that no attack has seen: per-run, vote and worst-of, each with an interval.

A stochastic network has three accuracies. Reporting the worst of many runs as "robust accuracy"
blames the attack for the network's own noise, so it is kept apart and shown beside its value at eps = 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats

from rsc.errors import UsageError
from rsc.results import Keys
from rsc.robustness.attacks import Adversarial, Attack
from rsc.robustness.ball import parse_eps
from rsc.robustness.eot import Eot, as_eot
from rsc.robustness.model import StochasticModel, label_of, stream_generator
from rsc.robustness.predict import as_predictor, checked, name_of, source_of
from rsc.robustness.qte import qte as trade_off
from rsc.robustness.results import Accuracy, AttackRow, Curve, NoiseSource, PairedDifference, Scores
from rsc.robustness.statistics import all_of, bootstrap_difference, bootstrap_mean, wilson

ATTACK_STREAMS = ("attack", "train")


@dataclasses.dataclass(frozen=True, eq=False)
class Runs:
    """Predictions of every draw.

    Fields:
        classes: int64 [draws, B].
        y: labels [B].
        name, seed, stream, source: who predicted under which noise.
    """

    classes: np.ndarray
    y: np.ndarray
    name: str
    seed: int
    stream: str
    source: NoiseSource

    @property
    def right(self) -> np.ndarray:
        """Bool [draws, B]."""
        return self.classes == self.y

    @property
    def votes(self) -> np.ndarray:
        """Most frequent class of each image [B]; the lowest index wins a tie."""
        size = int(self.classes.max()) + 1
        tally = np.zeros((self.classes.shape[1], size), np.int64)
        for row in self.classes:
            tally[np.arange(len(row)), row] += 1
        return tally.argmax(1)

    def scores(self, worst_of: int | None = None, level: float = 0.95) -> Scores:
        """The three accuracies; `worst_of` tries, all draws by default."""
        draws, n = self.classes.shape
        tries = draws if worst_of is None else worst_of
        if not 1 <= tries <= draws:
            raise UsageError(f"worst_of is {tries}.", f"There are {draws} draws.", "Use 1 to that number.")
        mean = self.right.mean(0)
        worst = all_of(self.right.sum(0), draws, tries)
        voted = int((self.votes == self.y).sum())
        return Scores(
            Accuracy(float(mean.mean()), n, bootstrap_mean(mean, self.seed, level), "per_run", draws),
            Accuracy(voted / n, n, wilson(voted, n, level), "vote", draws),
            Accuracy(float(worst.mean()), n, bootstrap_mean(worst, self.seed, level), "worst_of", tries),
            self.seed,
            self.stream,
            self.source,
        )


def measure(
    predict: Any,
    x: np.ndarray | torch.Tensor,
    y: np.ndarray | torch.Tensor,
    draws: int,
    seed: int = 0,
    *,
    samples: np.ndarray | None = None,
    stream: str = "score",
    chunk: int = 1024,
) -> Runs:
    """Predict every image under `draws` fresh noise draws.

    Args:
        predict: deployed model, differentiable model, or function (x, keys) -> classes.
        x: images [B, ...]; y: labels [B].
        samples: identity of the images in their data set; 0..B-1 by default.
        stream: purpose of the noise; streams that attacks or training use are refused.

    Raises:
        UsageError: nothing to score, or the noise is one that an attack may have seen.
    """
    images, labels = _numpy(x), _numpy(y).astype(np.int64)
    if len(images) == 0 or len(images) != len(labels) or draws < 1:
        raise UsageError(
            f"{len(images)} images, {len(labels)} labels and {draws} draws cannot be scored.",
            "",
            "Give each.",
        )
    if stream in ATTACK_STREAMS:
        raise UsageError(
            f"Noise stream '{stream}' cannot score.", "The attack has seen that noise.", "Use stream 'score'."
        )
    run = as_predictor(predict)
    ids = np.arange(len(images)) if samples is None else np.asarray(samples)
    sites = np.arange(draws * len(images))  # all draws of all images in a row: few calls for slow targets
    classes = np.empty(len(sites), np.int64)
    for at in range(0, len(sites), chunk):
        draw, image = np.divmod(sites[at : at + chunk], len(images))
        keys = Keys(seed, ids[image], draw, stream)  # type: ignore[arg-type]
        classes[at : at + chunk] = checked(run(images[image], keys), len(image))
    classes = classes.reshape(draws, len(images))
    return Runs(classes, labels, name_of(run), seed, stream, source_of(run))


def score(predict: Any, x: Any, y: Any, draws: int, seed: int = 0, **options: Any) -> Scores:
    """Per-run, vote and worst-of accuracy on fresh noise; options as in `measure`."""
    return measure(predict, x, y, draws, seed, **options).scores()


def compare(first: Runs, second: Runs, level: float = 0.95) -> PairedDifference:
    """Two models on the same images and the same noise.

    Raises:
        UsageError: images or noise differ.
    """
    same_noise = (first.seed, first.stream, first.source) == (second.seed, second.stream, second.source)
    if first.classes.shape != second.classes.shape or not np.array_equal(first.y, second.y) or not same_noise:
        raise UsageError(
            f"'{first.name}' and '{second.name}' were not run on the same images and noise.",
            "A paired difference needs both.",
            "Measure both with the same images, seed and stream.",
        )
    draws, n = first.classes.shape
    gap = second.right.mean(0) - first.right.mean(0)
    a, b = first.votes == first.y, second.votes == second.y
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    p = float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    interval = bootstrap_difference(gap, first.seed, level)
    return PairedDifference(
        first.name,
        second.name,
        n,
        draws,
        float(gap.mean()),
        interval,
        float(b.mean() - a.mean()),
        only_a,
        only_b,
        p,
        int((first.classes != second.classes).sum()),
        first.classes.size,
    )


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How attacked images are scored.

    Fields:
        draws: noise draws per image.
        seed: of the scoring noise (stream "score").
        levels: size of the input grid that images are rounded to before scoring; 0 for none.
        attack_seed: of the attack's own randomness (stream "attack").
    """

    draws: int = 16
    seed: int = 0
    levels: int = 0
    attack_seed: int = 0


def craft(
    attack: Attack,
    model: StochasticModel | Eot,
    x: torch.Tensor,
    y: torch.Tensor,
    eps: float,
    scoring: Scoring,
) -> Adversarial:
    """Attacked images, with the attack's randomness from its own stream."""
    generator = stream_generator(scoring.attack_seed, "attack", x.device)
    return attack(model, x, y, eps, generator=generator, levels=scoring.levels)


def attack_row(
    attack: Attack,
    model: StochasticModel | Eot,
    x: torch.Tensor,
    y: torch.Tensor,
    eps: str | float,
    scoring: Scoring | None = None,
    *,
    predict: Any = None,
    found: Adversarial | None = None,
    baseline: Scores | None = None,
    scores: Scores | None = None,
) -> AttackRow:
    """Craft on `model`, score on `predict` (the model itself by default), beside eps = 0.

    Args:
        found: images crafted before (replayed on another target).
        baseline: scores at eps = 0, where known.
        scores: of the attacked images, where known.
    """
    scoring = scoring or Scoring()
    value, text = parse_eps(eps)
    eot = as_eot(model)
    scored = as_predictor(eot.model if predict is None else predict)
    found = craft(attack, model, x, y, value, scoring) if found is None else found
    if baseline is None:
        nothing = craft(attack, model, x, y, 0.0, scoring)
        baseline = score(scored, nothing.x, y, scoring.draws, scoring.seed)
    return AttackRow(
        target=name_of(scored),
        model=label_of(eot.model),
        norm=attack.norm,
        eps=value,
        eps_text=text,
        attack=attack.title,
        steps=attack.steps,
        restarts=attack.restarts,
        eot=eot.effective_draws,
        eot_mode=eot.mode,
        surrogate=str(getattr(eot.model, "surrogate", "model")),
        scores=scores or score(scored, found.x, y, scoring.draws, scoring.seed),
        baseline=baseline,
        attack_seed=scoring.attack_seed,
        largest_norm=float(found.norms.max()),
        levels=scoring.levels,
        crafted_on="" if predict is None else label_of(eot.model),
        runs_per_image=found.runs,
    )


def accuracy_curve(
    attack: Attack,
    model: StochasticModel | Eot,
    x: torch.Tensor,
    y: torch.Tensor,
    strengths: Sequence[str | float],
    scoring: Scoring | None = None,
    *,
    predict: Any = None,
) -> Curve:
    """One row per strength, eps = 0 always among them and through the same pipeline.

    Call it for any number of models and targets with the same images, strengths and scoring; their `qte_mean`
    are then the points of the trade-off figure.
    """
    values = {parse_eps(s)[0]: s for s in (0.0, *strengths)}
    rows: list[AttackRow] = []
    for value in sorted(values):
        baseline = rows[0].baseline if rows else None
        rows.append(
            attack_row(attack, model, x, y, values[value], scoring, predict=predict, baseline=baseline)
        )
    area, mean = qte([row.eps for row in rows], [row.per_run.value for row in rows])
    return Curve(tuple(rows), area, mean)


def qte(strengths: Sequence[float], accuracies: Sequence[float]) -> tuple[float, float]:
    """`rsc.robustness.qte`, area and mean, of a curve that may be a single point.

    A single strength has no area; its accuracy is the mean.
    """
    if len(strengths) < 2:
        return 0.0, float(accuracies[0])
    return tuple(trade_off(strengths, accuracies))  # type: ignore[return-value]


def _numpy(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
