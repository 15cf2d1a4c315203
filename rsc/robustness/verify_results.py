"""What a verification finds: plain frozen values that become JSON and back without loss."""

from __future__ import annotations

import msgspec

from rsc.robustness.results import Accuracy, Interval


class VerifiedImage(msgspec.Struct, frozen=True):
    """The outcome for one image, by radius in the order of the plan.

    Fields:
        sample: its index in the data set.
        label, predicted: true class; plurality of the draws of stream "select".
        hits: of the clean runs of stream "estimate", those that are right.
        proved: draws whose whole ball is proved to have the label; 0 where the plurality is wrong.
        refuted: draws in whose ball an image of another class was found (branch and bound only).
        never, always, unstable: neuron-steps over all draws that cannot, must, or may fire.
    """

    sample: int
    label: int
    predicted: int
    hits: int
    proved: tuple[int, ...]
    refuted: tuple[int, ...]
    never: tuple[int, ...]
    always: tuple[int, ...]
    unstable: tuple[int, ...]


class VerifyRow(msgspec.Struct, frozen=True):
    """What is proved at one L_inf radius; shares of all images, those with a wrong vote count as 0.

    Fields:
        eps, eps_text: radius in pixel units, and as it was written.
        per_run: mean share of proved draws, a lower bound of the accuracy of one run under any attack, even
            one that knows the noise; without noise it is the verified accuracy.
        certified: images whose vote is certified (q_low > 1/2); without noise, verified images.
        by_noise: images whose certificate by noise alone (`certify`) contains the ball.
        either: images with one of the two, at alpha / 2 each.
        majority: images of which more than half of these very draws are proved.
        intervals: 95 % over images, of the value of the same name.
        refuted: share of (image, draw) with an image of another class in the ball; only branch and bound
            looks for them.
        never, always, unstable: shares of neuron-steps of the verified balls.
    """

    eps: float
    eps_text: str
    n: int
    per_run: float
    certified: float
    by_noise: float
    either: float
    majority: float
    intervals: dict[str, Interval]
    refuted: float
    never: float
    always: float
    unstable: float


class VerifyReport(msgspec.Struct, frozen=True):
    """Interval verification of a deployed integer program.

    Fields:
        target, model, program: whose integers, name, and digest of the program.
        arithmetic: "integer"; nothing else is verified.
        encoder, steps, sigma: kind, T, sigma in pixel units.
        draws, n0: noise draws that estimate and that select; 1 without noise.
        alpha: allowed probability of a false certificate, per image; 0 without noise.
        expected_false: images times alpha.
        clean: accuracy of one run without perturbation on the same draws.
        rows: by radius.
        guarantee: what the numbers promise, in words.
        boxes, wall_s: verified (image, draw, radius) and the seconds that took, over all sessions.
        refine_s: seconds of branch and bound per box.
    """

    target: str
    model: str
    program: str
    arithmetic: str
    encoder: str
    steps: int
    sigma: float
    draws: int
    n0: int
    alpha: float
    seed: int
    expected_false: float
    clean: Accuracy
    rows: tuple[VerifyRow, ...]
    images: tuple[VerifiedImage, ...]
    guarantee: str
    boxes: int
    wall_s: float
    refine_s: float = 0.0


class VerifyState(msgspec.Struct, frozen=True):
    """What a resumed verification goes on from.

    Fields:
        fingerprint: of program, images, labels and plan; another one is refused.
        images: finished ones, in order.
        wall_s: seconds so far.
    """

    fingerprint: str
    images: tuple[VerifiedImage, ...] = ()
    wall_s: float = 0.0
