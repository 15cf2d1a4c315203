"""The standard attack: several attacks through several gradients, the worst image of each, scored anew.

The choice of the worst is made on noise of its own (stream "select"), never on the attack's and never on
that of the scores: a minimum over noisy numbers, read off the same noise, would blame luck on the attack.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsc.coding import encode
from rsc.errors import UsageError
from rsc.results import Keys
from rsc.robustness.attacks import Adversarial, Apgd, Attack, Pgd, RandomNoise, SaPgd
from rsc.robustness.ball import norm_of
from rsc.robustness.eot import Eot
from rsc.robustness.evaluate import Runs, Scoring, craft, measure
from rsc.robustness.losses import cross_entropy
from rsc.robustness.model import ModuleModel, StochasticModel, device_of, label_of, with_surrogate
from rsc.robustness.results import Norm
from rsc.robustness.surrogates import surrogate_named, surrogate_text

SURROGATES = ("atan", "atan:10", "triangle", "rga", "hart", "assg")


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """One attack through one gradient.

    Fields:
        model: what it is made on, with its averaging.
    """

    attack: Attack
    model: Eot

    @property
    def title(self) -> str:
        """As "apgd_dlr through rga on NAME"."""
        home = self.model.model
        return f"{self.attack.title} through {getattr(home, 'surrogate', 'model')} on {label_of(home)}"


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """The worst image of each.

    Fields:
        adversarial: images; `start` and `kept` are mean cross-entropies on the select noise.
        chosen: member [B] that made each, -1 where the clean image was as bad as any.
        selection: per member its runs on the select noise, from which the choice was made.
        titles: of the members.
    """

    adversarial: Adversarial
    chosen: np.ndarray
    selection: tuple[Runs, ...]
    titles: tuple[str, ...]


def standard(
    model: ModuleModel,
    norm: Norm = "linf",
    *,
    steps: int = 50,
    eot: int = 4,
    restarts: int = 1,
    surrogates: Sequence[str] = SURROGATES,
    classes: int = 10,
    extra: Sequence[ModuleModel] = (),
) -> list[Member]:
    """PGD, APGD-CE, APGD-DLR (three classes or more) and in L_inf SA-PGD, each through every surrogate.

    Args:
        surrogates: as `rsc.robustness.surrogates.surrogate_named` reads them; a network that cannot be
            switched is attacked through its own.
        extra: further differentiable models of the same program (its integer twin), attacked with APGD-CE
            and PGD through the gradient that they have.
    """
    attacks: list[Attack] = [
        Pgd(norm, steps, restarts, True),
        Apgd(norm, steps, restarts, True),
        *([Apgd(norm, steps, restarts, True, loss="dlr")] if classes >= 3 else []),
        *([SaPgd(norm, steps, restarts, True)] if norm == "linf" else []),
    ]
    members = [Member(a, Eot(m, eot)) for m in views(model, surrogates) for a in attacks]
    members += [Member(a, Eot(m, eot)) for m in extra for a in attacks[:2]]
    return [*members, Member(RandomNoise(norm, restarts=4), Eot(model, eot))]


def views(model: ModuleModel, surrogates: Sequence[Any]) -> list[ModuleModel]:
    """The model through each surrogate that fits it; at least as it is.

    Args:
        surrogates: names, or what `with_surrogate` takes.

    Raises:
        UsageError: a surrogate is not known.
    """
    found: list[ModuleModel] = []
    for given in surrogates:
        surrogate = surrogate_named(given) if isinstance(given, str) else given
        try:
            found.append(with_surrogate(model, surrogate))
        except UsageError:
            continue  # not every network can be switched; `refused` lists what was left out
    return found or [model]


def refused(model: ModuleModel, surrogates: Sequence[str]) -> list[str]:
    """Surrogates that the model cannot be attacked through."""
    known = {view.surrogate for view in views(model, surrogates)}
    return [text for text in surrogates if surrogate_text(surrogate_named(text)) not in known]


def cost(members: Sequence[Member], select_draws: int = 16) -> int:
    """Network runs per image, at most, of crafting and choosing."""
    return sum(m.attack.cost(m.model) + 2 * select_draws for m in members) + 2 * select_draws


def ensemble(
    members: Sequence[Member],
    x: Tensor,
    y: Tensor,
    eps: float,
    scoring: Scoring,
    *,
    predict: Any = None,
    select_draws: int = 16,
    given: Sequence[Adversarial] | None = None,
) -> Found:
    """Run all members; keep per image the one that is right least often on the select noise.

    Ties go to the larger mean cross-entropy on the first member's model under the same noise.

    Args:
        predict: what the choice is made on, e.g. a deployed target; the first member's model by default.
        given: what the members found, where known.

    Raises:
        UsageError: no members, or of several norms.
    """
    if not members or len({m.attack.norm for m in members}) > 1:
        raise UsageError(
            "The attacks to combine do not fit.", "At least one, all of one norm.", "Correct it."
        )
    home = members[0].model.model
    found = given or [craft(m.attack, m.model, x, y, eps, scoring) for m in members]
    images = [x, *(f.x for f in found)]
    runs = _selection(home if predict is None else predict, images, y, select_draws, scoring.seed)
    losses = torch.stack([_mean_loss(home, z, y, select_draws, scoring.seed) for z in images])
    hits = np.stack([r.right.sum(0) for r in runs])
    order = np.lexsort((-losses.cpu().numpy(), hits), axis=0)
    best = order[0]
    pick = torch.from_numpy(best).to(x.device)
    chosen = torch.stack(images)[pick, torch.arange(len(x), device=x.device)]
    norms = norm_of(chosen.double() - x.double(), members[0].attack.norm)
    kept = losses.gather(0, pick[None])[0]
    adversarial = Adversarial(chosen, losses[0], kept, norms, sum(f.runs for f in found))
    return Found(adversarial, best - 1, tuple(runs[1:]), tuple(m.title for m in members))


def _selection(predict: Any, images: Sequence[Tensor], y: Tensor, draws: int, seed: int) -> list[Runs]:
    """Predictions of each set of images on the select noise; all in a row, few calls for slow targets."""
    n, ids = len(y), np.tile(np.arange(len(y)), len(images))
    labels = y.repeat(len(images))
    runs = measure(predict, torch.cat(list(images)), labels, draws, seed, samples=ids, stream="select")
    parts = (slice(k * n, (k + 1) * n) for k in range(len(images)))
    return [dataclasses.replace(runs, classes=runs.classes[:, part], y=runs.y[part]) for part in parts]


def _mean_loss(model: StochasticModel, x: Tensor, y: Tensor, draws: int, seed: int) -> Tensor:
    """Mean cross-entropy [B] on the select noise."""
    ids, total = np.arange(len(x)), torch.zeros(len(x), dtype=torch.float64, device=x.device)
    images = x.detach().cpu().numpy()
    device = device_of(model)
    with torch.no_grad():
        for draw in range(draws):
            frames = torch.tensor(
                encode(model.encoder, images, Keys(seed, ids, draw, "select")), device=device
            )
            total += cross_entropy(model.core(frames), y.to(device)).to(total)
    return total / draws
