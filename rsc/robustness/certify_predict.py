"""PREDICT: the vote of many runs with the right to abstain (Cohen et al., arXiv 1902.02918).

A certificate speaks of the vote of infinitely many runs; this is how a finite vote says which class that
is, or that it cannot tell. Use seeds that nobody can predict: known noise voids the certificates.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import stats

from rsc.errors import UsageError
from rsc.robustness.certify_count import Job, Series, batch_for, count
from rsc.robustness.certify_state import Tally
from rsc.robustness.predict import as_predictor, name_of, source_of
from rsc.robustness.results import Voted
from rsc.robustness.statistics import wilson

ABSTAIN = -1


def predict_or_abstain(model: Any, x: np.ndarray | torch.Tensor, **options: Any) -> np.ndarray:
    """The vote of n runs per image, int64 [N], or -1; options as in `vote_or_abstain`."""
    return np.array(vote_or_abstain(model, x, **options).classes, np.int64)


def vote_or_abstain(
    model: Any,
    x: np.ndarray | torch.Tensor,
    y: np.ndarray | torch.Tensor | None = None,
    *,
    n: int = 100,
    alpha: float = 0.001,
    seed: int = 0,
    samples: np.ndarray | None = None,
    chunk: int = 1024,
) -> Voted:
    """Vote on every image.

    Args:
        model: whatever `certify` takes.
        x: images [N, ...]; y: labels [N], for the accuracy.
        n: runs per image, fixed beforehand.
        alpha: of the two-sided binomial test of the top two counts, per image.
        samples: identity of the images; 0..N-1 by default.

    Raises:
        UsageError: parameters out of range.
    """
    images, predict = plain(x), as_predictor(model)
    if not (len(images) and min(n, chunk) >= 1 and 0 < alpha < 1):
        raise UsageError(
            f"{len(images)} images, n {n}, alpha {alpha} and chunk {chunk} cannot vote.",
            "There is at least one image and one run, and alpha lies between 0 and 1.",
            "Correct them.",
        )
    ids = np.arange(len(images)) if samples is None else np.asarray(samples, np.int64)
    series = (Series(predict, "run", n),)
    tallies = count(Job(images, ids, series, seed, chunk, batch_for(images.shape[1:], 1)))
    classes = np.array([vote(found[0], alpha) for found in tallies])
    right = None if y is None else int((classes == plain(y)).sum())
    return Voted(
        classes=tuple(int(c) for c in classes),
        draws=n,
        alpha=alpha,
        seed=seed,
        stream="run",
        source=source_of(predict),
        abstained=int((classes == ABSTAIN).sum()),
        target=name_of(predict),
        accuracy=None if right is None else right / len(classes),
        wrong=None if right is None else float((classes != ABSTAIN).mean()) - right / len(classes),
        interval=None if right is None else wilson(right, len(classes)),
    )


def vote(tally: Tally, alpha: float) -> int:
    """The most frequent class, or -1 if a fair coin could well have put it there."""
    ranked = sorted(tally.items(), key=lambda item: (-item[1], item[0]))
    first, second = ranked[0][1], ranked[1][1] if len(ranked) > 1 else 0
    return ranked[0][0] if stats.binomtest(first, first + second).pvalue <= alpha else ABSTAIN


def plain(values: Any) -> np.ndarray:
    """As a numpy array."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
