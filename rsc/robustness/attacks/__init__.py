"""Attacks by name. Adding one: a file in this folder and a line in `ATTACKS`."""

from __future__ import annotations

from rsc.robustness.attacks.apgd import Apgd
from rsc.robustness.attacks.base import Adversarial, Attack, Query
from rsc.robustness.attacks.fgsm import Fgsm
from rsc.robustness.attacks.pgd import Pgd
from rsc.robustness.attacks.random_noise import RandomNoise
from rsc.robustness.attacks.sa_pgd import SaPgd
from rsc.robustness.attacks.sea import Sea
from rsc.robustness.attacks.spsa import Spsa
from rsc.robustness.attacks.square import Square
from rsc.robustness.attacks.strongest import Strongest
from rsc.robustness.attacks.transfer import Transfer

ATTACKS: dict[str, type[Attack]] = {
    "fgsm": Fgsm,
    "pgd": Pgd,
    "apgd": Apgd,
    "sa_pgd": SaPgd,
    "square": Square,
    "spsa": Spsa,
    "sea": Sea,
    "random": RandomNoise,
    "strongest": Strongest,
    "transfer": Transfer,
}

__all__ = [
    "ATTACKS",
    "Adversarial",
    "Apgd",
    "Attack",
    "Fgsm",
    "Pgd",
    "Query",
    "RandomNoise",
    "SaPgd",
    "Sea",
    "Spsa",
    "Square",
    "Strongest",
    "Transfer",
]
