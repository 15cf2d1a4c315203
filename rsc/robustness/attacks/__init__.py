"""Attacks by name. Adding one: a file in this folder and a line in `ATTACKS`."""

from __future__ import annotations

from rsc.robustness.attacks.base import Adversarial, Attack, Query
from rsc.robustness.attacks.fgsm import Fgsm
from rsc.robustness.attacks.pgd import Pgd
from rsc.robustness.attacks.random_noise import RandomNoise
from rsc.robustness.attacks.transfer import Transfer

ATTACKS: dict[str, type[Attack]] = {
    "fgsm": Fgsm,
    "pgd": Pgd,
    "random": RandomNoise,
    "transfer": Transfer,
}

__all__ = ["ATTACKS", "Adversarial", "Attack", "Fgsm", "Pgd", "Query", "RandomNoise", "Transfer"]
