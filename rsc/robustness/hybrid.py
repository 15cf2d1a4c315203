"""The hybrid L_inf certificate of a stochastic classifier: seeds times intervals.

For noise draw k let V_k = 1 if class A is proved (`rsc.robustness.intervals`) for *all* images of the ball
under that draw. The V_k are independent, and for every image x' of the ball P[F(x', E) = A] >= P[V = 1] = q.
So with q_low the one-sided Clopper-Pearson bound of q:

    q_low > 1/2    the vote over independent noise answers A on the whole ball (confidence 1 - alpha);
    q_low          bounds the accuracy of one run, against an attacker who knows the noise, too;
    most of K shipped seeds proved: their vote answers A on the whole ball, for certain.

It holds for the integers that are deployed. The certificate that the noise alone gives
(`rsc.robustness.certify`) holds in L2 or L1 and is converted, by R / sqrt(d) or R / d; both are reported, and
the larger one at alpha / 2 each. No published tool has this form; the
derivation above is all there is to it.
"""

from __future__ import annotations

from rsc.encoder_spec import COINS, EncoderSpec
from rsc.robustness.certificate import certificate_of, inside
from rsc.robustness.statistics import clopper_pearson_low, draws_to_show

STOCHASTIC = (
    "Certified: with probability at least 1 - alpha = {sure:g} per image, the vote over independent noise "
    "gives the class for every image within eps in L_inf, on the deployed integers. Per run: lower bound of "
    "the accuracy of a single run even if the attacker knows its noise. Majority: the vote of exactly these "
    "{draws} seeds, shipped as they are, gives the class on the whole ball for certain."
)
DETERMINISTIC = (
    "Verified: the deployed integer program gives the class for every image within eps in L_inf. There is no "
    "noise and nothing was sampled, so this is certain for these images."
)


def q_low(proved: int, draws: int, alpha: float) -> float:
    """Lower confidence bound of the probability that a draw is proved."""
    return clopper_pearson_low(proved, draws, alpha)


def certified(proved: int, draws: int, alpha: float) -> bool:
    """Whether the vote is certified on the ball: q_low > 1/2."""
    return q_low(proved, draws, alpha) > 0.5


def majority_proved(proved: int, draws: int) -> bool:
    """Whether more than half of these very draws are proved."""
    return 2 * proved > draws


def converted(encoder: EncoderSpec, hits: int, draws: int, alpha: float, dimensions: int) -> float:
    """L_inf radius inside the certificate that the noise alone gives; 0 without one.

    Args:
        hits: of `draws` clean runs, those that gave the class.
        dimensions: d, pixels times channels.
    """
    if not (encoder.kind in COINS or min(encoder.sigmas) > 0):
        return 0.0
    noise = certificate_of(encoder, dimensions)
    return inside(noise.norm, noise.radius(clopper_pearson_low(hits, draws, alpha)), dimensions).linf


def either(
    encoder: EncoderSpec, eps: float, proved: int, hits: int, draws: int, alpha: float, dimensions: int
) -> bool:
    """Whether one of the two certificates holds at eps, each at alpha / 2."""
    by_noise = converted(encoder, hits, draws, alpha / 2, dimensions)
    return certified(proved, draws, alpha / 2) or eps <= by_noise > 0


def guarantee(encoder: EncoderSpec, draws: int, alpha: float) -> str:
    """What the numbers promise, in words."""
    if not encoder.stochastic:
        return DETERMINISTIC
    said = STOCHASTIC.format(sure=1 - alpha, draws=draws)
    least = draws_to_show(0.5, alpha)
    if least is not None and draws < least:
        said += f" {draws} draws can certify no vote at this alpha, even if all are proved: it takes {least}."
    return said
