"""What a robustness evaluation finds: plain frozen values that become JSON and back without loss.

Every number says how many images and draws it rests on, with an interval where it is a sample.
Nothing here computes; see `evaluate`, `certify` and `health`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Norm = Literal["linf", "l2", "l1", "l0"]
Kind = Literal["per_run", "vote", "worst_of"]
Status = Literal["PASS", "WARN", "FAIL"]
NoiseSource = Literal["keyed", "generator"]
Soundness = Literal["integer", "sampler", "real"]


class Interval(msgspec.Struct, frozen=True):
    """Range that holds the true value with probability `level`.

    Fields:
        low, high: ends, same unit as the value.
        level: confidence, e.g. 0.95.
        method: "wilson", "bootstrap over images" or "clopper-pearson".
    """

    low: float
    high: float
    level: float
    method: str


class Accuracy(msgspec.Struct, frozen=True):
    """One of the three accuracies of a stochastic classifier, as a fraction in [0, 1].

    Fields:
        value: the estimate.
        n: number of images.
        interval: for `value`, over images.
        kind: "per_run", expected over encoder noise; "vote", plurality of `draws` runs;
            "worst_of", right in every one of `draws` runs (an attacker who may try that often).
        draws: noise draws per image behind the number.
    """

    value: float
    n: int
    interval: Interval
    kind: Kind
    draws: int


class Scores(msgspec.Struct, frozen=True):
    """The three accuracies of the same images and draws.

    Fields:
        source: "keyed" (reproducible on every target) or "generator" (the device's own).
        seed, stream: of the scoring noise.
    """

    per_run: Accuracy
    vote: Accuracy
    worst_of: Accuracy
    seed: int
    stream: str
    source: NoiseSource = "keyed"


class PairedDifference(msgspec.Struct, frozen=True):
    """Two models on the same images under the same noise; differences are second minus first.

    Fields:
        first, second: names.
        per_run: difference of per-run accuracy; `interval` by bootstrap over images.
        vote: difference of vote accuracy.
        only_first, only_second: images that just one of them gets right by vote.
        mcnemar_p: exact two-sided p-value of those two counts being alike.
        flipped_runs, runs: predictions that differ under the same noise, of how many.
    """

    first: str
    second: str
    n: int
    draws: int
    per_run: float
    interval: Interval
    vote: float
    only_first: int
    only_second: int
    mcnemar_p: float
    flipped_runs: int
    runs: int


class AttackRow(msgspec.Struct, frozen=True):
    """One attack at one strength, scored on fresh noise.

    Fields:
        target: who ran the scored model ("torch", "loihi", ...).
        model: name of the model under attack.
        norm, eps, eps_text: ball, its radius in pixel units, and the radius as the user wrote it ("8/255").
        attack, steps, restarts: what was run.
        eot, eot_mode: noise draws per gradient, and "fresh", "common" or "frozen" noise.
        surrogate: surrogate gradient the attack used; "model" if it left the model's own.
        scores: accuracies of the attacked images on noise the attack never saw.
        baseline: the same three at eps = 0 through the same pipeline; worst_of needs it to mean anything.
        attack_seed, attack_stream: noise the attack drew; disjoint from `scores.seed`/`scores.stream`.
        largest_norm: largest perturbation among the saved images.
        levels: size of the input grid the images were rounded to before scoring; 0 for none.
        crafted_on: model that the images were made on when it is not the scored one (transfer).
        runs_per_image: network runs the attack spent per image.
    """

    target: str
    model: str
    norm: Norm
    eps: float
    eps_text: str
    attack: str
    steps: int
    restarts: int
    eot: int
    eot_mode: str
    surrogate: str
    scores: Scores
    baseline: Scores
    attack_seed: int
    largest_norm: float
    attack_stream: str = "attack"
    levels: int = 0
    crafted_on: str = ""
    runs_per_image: int = 0

    @property
    def per_run(self) -> Accuracy:
        """Expected accuracy of one run under attack."""
        return self.scores.per_run

    @property
    def vote(self) -> Accuracy:
        """Accuracy of the vote under attack."""
        return self.scores.vote

    @property
    def worst_of(self) -> Accuracy:
        """Images right in all runs under attack; compare with `baseline.worst_of`."""
        return self.scores.worst_of


class Curve(msgspec.Struct, frozen=True):
    """Accuracy against strength, the strengths rising from 0.

    Fields:
        rows: one per strength.
        qte: trapezoid area under per-run accuracy over eps (Wu et al., arXiv 2407.20099).
        qte_mean: that area over the range of eps, an average accuracy in [0, 1].
    """

    rows: tuple[AttackRow, ...]
    qte: float
    qte_mean: float


class CertifiedImage(msgspec.Struct, frozen=True):
    """The outcome for one image.

    Fields:
        sample: its index in the data set.
        label: true class.
        predicted: class the vote names, or -1 if it abstains.
        p_low: lower confidence bound of that class's probability in one run.
        radius: certified, in the norm of the report and pixel units; 0 if it abstains.
        at_ceiling: all n draws agreed, so more draws would give a larger radius.
    """

    sample: int
    label: int
    predicted: int
    p_low: float
    radius: float
    at_ceiling: bool


class CertifyRow(msgspec.Struct, frozen=True):
    """Share of images that are right and certified at a radius.

    Fields:
        radius: in the norm of the report, pixel units.
        certified_accuracy: fraction of `n` images.
        linf_eps: the L_inf ball inside: radius / sqrt(dimensions) of an L2 ball, / dimensions of an L1 ball.
    """

    radius: float
    certified_accuracy: float
    n: int
    interval: Interval
    linf_eps: float


class Guarantee(msgspec.Struct, frozen=True):
    """What the certificates promise for few runs under any attack of size `radius`, in the report's norm.

    Fields:
        per_run: lower bound of mean accuracy of one run.
        votes: number of runs K -> lower bound of mean accuracy of their majority.
    """

    radius: float
    per_run: float
    votes: dict[int, float]


class Conversion(msgspec.Struct, frozen=True):
    """The largest L_inf, L2 and L1 ball inside the certified ball of one radius, pixel units."""

    radius: float
    linf: float
    l2: float
    l1: float


class Transfer(msgspec.Struct, frozen=True):
    """A target certified through its twin: pA_target >= pA_twin - q_up, each side at alpha / 2.

    q is the probability that the twin names the class and the target does not, on the same noise; q_up is
    its upper confidence bound (Clopper-Pearson), of every image by itself.

    Fields:
        twin, target: who drew the many runs, and whom the certificate is about.
        draws: paired draws per image, fixed beforehand.
        lost: paired draws of all images on which the twin named the class and the target another.
        disagreements: paired draws on which they differed at all; runs: of how many.
        q_up_mean, q_up_least: mean over images, and what an image without any lost draw has.
    """

    twin: str
    target: str
    draws: int
    lost: int
    disagreements: int
    runs: int
    q_up_mean: float
    q_up_least: float


class Voted(msgspec.Struct, frozen=True):
    """The vote of n runs per image, or no answer (PREDICT of Cohen et al., arXiv 1902.02918).

    An answer differs from the most probable class with probability at most alpha, per image.

    Fields:
        classes: one per image, -1 where it abstains.
        draws, alpha, seed, stream, source: how it was made.
        abstained: images.
        accuracy: share of all images that are answered and right, with labels; wrong: answered and not.
        interval: Wilson, of accuracy.
    """

    classes: tuple[int, ...]
    draws: int
    alpha: float
    seed: int
    stream: str
    source: NoiseSource
    abstained: int
    target: str
    accuracy: float | None = None
    wrong: float | None = None
    interval: Interval | None = None


class CertifyReport(msgspec.Struct, frozen=True):
    """Certificates by Monte Carlo (Cohen et al., arXiv 1902.02918), with the radius of the coder in use.

    Fields:
        rule: the formula, e.g. "rsc2: sigma/sqrt(T)*Phi^-1(pA)".
        sigma: in pixel units; steps: T.
        n0, n: draws for selection and for estimation, disjoint.
        alpha: allowed probability of a false certificate, per image.
        expected_false: images * alpha, certificates that may be false in expectation.
        abstained, at_ceiling: images.
        ceiling: largest radius that n draws can give.
        source: "keyed" or "generator".
        images: one entry each.
        rows: certified accuracy by radius.
        guarantees: per-run and vote-of-K bounds by radius.
        target, model: what was certified, and its name.
        norm: of all radii: "l2" for Gaussian noise, "l1" for coins.
        soundness: "integer": no floating point between image and class; "sampler": none between image and
            frames, and the network's own floating point is part of what is certified; "real": noise in
            floating point, which leaves the gap of Voracek and Hein (arXiv 2207.07209).
        promises: what holds, as sentences; limits: what does not.
        advice: what would give more, as sentences.
        squared_levels: on a grid, per image: a perturbed image is covered if and only if the sum of its
            squared differences, in whole levels, is at most this.
        off_grid: images that the encoder rounds to its grid; their certificates are about the rounded image.
        together: alpha was divided by the number of images, so that all certificates hold at once.
        conversions: per radius of `rows`.
        transfer: if the target was certified through a twin.
        voted: of the same images, if they were voted on.
    """

    rule: str
    encoder: str
    sigma: float
    steps: int
    n0: int
    n: int
    alpha: float
    seed: int
    source: NoiseSource
    expected_false: float
    abstained: int
    at_ceiling: int
    ceiling: float
    images: tuple[CertifiedImage, ...]
    rows: tuple[CertifyRow, ...]
    guarantees: tuple[Guarantee, ...]
    target: str = ""
    model: str = ""
    norm: Norm = "l2"
    soundness: Soundness = "real"
    promises: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    squared_levels: tuple[int, ...] = ()
    off_grid: int = 0
    together: bool = False
    conversions: tuple[Conversion, ...] = ()
    transfer: Transfer | None = None
    voted: Voted | None = None


class HealthCheck(msgspec.Struct, frozen=True):
    """One sanity check of an evaluation.

    Fields:
        id: R1, R2, ...
        title: what must hold.
        status: PASS, WARN or FAIL.
        numbers: the values that were compared, by name.
        next_step: what to do; "" on PASS.
    """

    id: str
    title: str
    status: Status
    numbers: dict[str, float]
    next_step: str = ""


class RobustnessReport(msgspec.Struct, frozen=True):
    """All that is known about one model's robustness on one target.

    Fields:
        clean: scores without any perturbation.
        attacks: rows, including the per-image worst over attacks where it was made.
        curves, certificates, differences, checks: as named.
        not_tried: attacks and gradients that were left out, e.g. "attack square", "gradient hart".
    """

    target: str
    model: str
    clean: Scores
    attacks: tuple[AttackRow, ...] = ()
    curves: tuple[Curve, ...] = ()
    certificates: tuple[CertifyReport, ...] = ()
    differences: tuple[PairedDifference, ...] = ()
    checks: tuple[HealthCheck, ...] = ()
    not_tried: tuple[str, ...] = ()
