"""The measurements that the health checks share: each attack is run and scored once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from rsc.coding import encode
from rsc.program import EncoderSpec
from rsc.results import Keys
from rsc.robustness.attacks import Adversarial, Attack, Fgsm, Pgd, RandomNoise, Spsa, Square, Transfer
from rsc.robustness.certify import ABSTAIN, certify
from rsc.robustness.ensemble import SURROGATES, views
from rsc.robustness.eot import Eot
from rsc.robustness.evaluate import Runs, Scoring, craft, measure
from rsc.robustness.model import ModuleModel, stream_generator
from rsc.robustness.predict import Keyed, as_predictor, encoder_of
from rsc.robustness.results import Accuracy, Norm


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """One evaluation under scrutiny.

    Fields:
        model: what is attacked.
        x, y: images [B, ...] and labels [B].
        eps: strength under scrutiny, pixel units; strengths: the curve, 0 excluded.
        attack: the main attack; eot: its noise draws per gradient.
        black_box: attacks that must not beat it.
        scoring: seeds and draws.
        predict: what is scored; the model itself by default.
        control: an undefended network; the model without its noise by default.
        surrogates: gradients that R10 tries, as `views` takes them.
        verify: (images, labels, eps, keys) -> bool [B], whether the label is proved for the whole L_inf ball
            under that noise, e.g. by intervals of the deployed integers (R19).
        certifier: what is checked as a certifier: called as `rsc.robustness.certify.certify`.
        certify_images, certify_n: budget of the certificate check.
    """

    model: ModuleModel
    x: Tensor
    y: Tensor
    eps: float
    attack: Attack = dataclasses.field(default_factory=Pgd)
    eot: int = 4
    strengths: tuple[float, ...] = ()
    black_box: tuple[Attack, ...] | None = None
    scoring: Scoring = dataclasses.field(default_factory=Scoring)
    predict: Any = None
    control: ModuleModel | None = None
    certify_images: int = 20
    certify_n: int = 400
    surrogates: tuple[Any, ...] = SURROGATES
    verify: Callable[[np.ndarray, np.ndarray, float, Keys], np.ndarray] | None = None
    certifier: Callable[..., Any] = certify
    _done: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def scored(self) -> Any:
        """What predictions come from."""
        return as_predictor(self.model if self.predict is None else self.predict)

    @property
    def rivals(self) -> tuple[Attack, ...]:
        """The black-box attacks; small budgets by default, as alarms and not as headline."""
        if self.black_box is not None:
            return self.black_box
        noise = RandomNoise(self.attack.norm, restarts=4)
        spsa = Spsa(self.attack.norm, steps=10, pairs=8)
        return (noise, spsa, Square(steps=100)) if self.attack.norm == "linf" else (noise, spsa)

    @property
    def whole_box(self) -> float:
        """Radius at which the ball holds every legal image."""
        low, high = self.model.bounds
        size = math.prod(self.x.shape[1:])
        return (high - low) * {"linf": 1.0, "l2": math.sqrt(size), "l1": float(size)}[self.attack.norm]

    @cached_property
    def classes(self) -> int:
        """Number of logits."""
        spec = self.model.encoder
        with torch.no_grad():
            return self.model.core(self.x[:1].expand(spec.steps, 1, *self.x.shape[1:])).shape[1]

    def found(self, attack: Attack, eps: float, eot: int | None = None) -> Adversarial:
        """Images of an attack on the model."""
        key = ("found", attack, eps, eot or self.eot)
        if key not in self._done:
            wrapped = Eot(self.model, eot or self.eot)
            self._done[key] = craft(attack, wrapped, self.x, self.y, eps, self.scoring)
        return self._done[key]

    def runs(self, attack: Attack | None, eps: float = 0.0, eot: int | None = None) -> Runs:
        """Predictions on attacked images, or on the clean ones, under scoring noise."""
        key = ("runs", attack, eps, eot or self.eot)
        if key not in self._done:
            x = self.x if attack is None else self.found(attack, eps, eot).x
            self._done[key] = measure(self.scored, x, self.y, self.scoring.draws, self.scoring.seed)
        return self._done[key]

    def per_run(self, attack: Attack | None, eps: float = 0.0, eot: int | None = None) -> Accuracy:
        """Per-run accuracy."""
        return self.runs(attack, eps, eot).scores().per_run

    @cached_property
    def fgsm(self) -> Fgsm:
        """The one-step attack to compare with."""
        return Fgsm(self.attack.norm)

    @cached_property
    def longer(self) -> Attack:
        """The main attack with twice the steps."""
        return dataclasses.replace(self.attack, steps=2 * self.attack.steps)

    @cached_property
    def restarted(self) -> Attack:
        """The main attack with twice the restarts, from random starts."""
        return dataclasses.replace(self.attack, restarts=2 * self.attack.restarts, random_start=True)

    def core_changes(self) -> tuple[float, float, float]:
        """Largest relative change of logits on repetition and without the batch; share of rows of sum 1."""
        x = self.x[:8]
        keys = Keys(self.scoring.seed, np.arange(len(x)))
        frames = torch.tensor(encode(self.model.encoder, x.cpu().numpy(), keys), device=x.device)
        with torch.no_grad():
            whole, again = self.model.core(frames), self.model.core(frames)
            single = torch.cat([self.model.core(frames[:, k : k + 1]) for k in range(len(x))])
        scale = float(whole.abs().max().clamp_min(1e-12))
        simplex = ((whole.sum(1) - 1).abs() < 1e-4) & (whole >= 0).all(1)
        changes = ((again - whole).abs().max(), (single - whole).abs().max())
        return float(changes[0]) / scale, float(changes[1]) / scale, float(simplex.double().mean())

    def known_noise_accuracy(self) -> tuple[float, float]:
        """Accuracy on one noise draw: of images made without knowing it, and of images made for it."""
        keys = Keys(self.scoring.attack_seed, np.arange(len(self.x)), stream="attack")
        frozen = Eot(self.model, 1, "frozen", keys=keys)
        aimed = craft(self.attack, frozen, self.x, self.y, self.eps, self.scoring).x
        labels = self.y.cpu().numpy()
        images = (self.found(self.attack, self.eps).x, aimed)
        fresh, known = (float((Keyed(self.model)(i.cpu().numpy(), keys) == labels).mean()) for i in images)
        return fresh, known

    @cached_property
    def half_gradients(self) -> tuple[Tensor, Tensor]:
        """Two gradients [B, D] from independent halves of the EOT draws."""
        eot = Eot(self.model, self.eot)
        generator = stream_generator(self.scoring.attack_seed, "attack", self.x.device, 1)
        draws = eot.noise(self.x, generator, slice(0, len(self.x)))
        first, second = (eot.gradient(self.x, self.y, draws)[1].flatten(1) for _ in range(2))
        return first, second

    def undefended(self) -> ModuleModel:
        """The control: given, or the same network with its noise switched off."""
        if self.control is not None:
            return self.control
        spec = self.model.encoder
        quiet = EncoderSpec("direct", spec.steps, 0.0, spec.clip, spec.mean, spec.std, spec.order)
        return dataclasses.replace(self.model, encoder=quiet, name="control")

    def control_accuracy(self) -> tuple[float, float]:
        """Clean and attacked accuracy of the control."""
        control = self.undefended()
        found = craft(self.attack, Eot(control, 1), self.x, self.y, self.eps, self.scoring)
        runs = [measure(control, x, self.y, 1, self.scoring.seed) for x in (self.x, found.x)]
        return float(runs[0].right.mean()), float(runs[1].right.mean())

    def rounding(self) -> dict[str, float]:
        """Per-run accuracy under the main attack before and after its images are put on the input grid."""
        free = dataclasses.replace(self.scoring, levels=0)
        images = craft(self.attack, Eot(self.model, self.eot), self.x, self.y, self.eps, free).x
        before = measure(self.scored, images, self.y, self.scoring.draws, self.scoring.seed)
        return {
            "accuracy_before_rounding": float(before.right.mean()),
            "accuracy_after_rounding": self.per_run(self.attack, self.eps).value,
        }

    def through(self) -> dict[str, float]:
        """Per-run accuracy under the main attack through each other gradient that fits; R10."""
        found = {}
        for view in views(self.model, self.surrogates):
            if view is self.model:
                continue
            images = craft(self.attack, Eot(view, self.eot), self.x, self.y, self.eps, self.scoring).x
            runs = measure(self.scored, images, self.y, self.scoring.draws, self.scoring.seed)
            found[view.surrogate] = float(runs.right.mean())
        return found

    def transferred(self) -> Runs:
        """Predictions on images made on the undefended control."""
        made = craft(self.attack, Eot(self.undefended(), 1), self.x, self.y, self.eps, self.scoring)
        replay = Transfer(self.attack.norm, saved=made.x)
        return self.runs(replay, self.eps)

    def certificate_draws(self) -> tuple[int, int]:
        """Noise draws that a certificate claims per image, and different ones that the target was shown."""
        seen: set[tuple[int, str, int]] = set()
        claimed = (20, 60)

        def spy(x: np.ndarray, keys: Keys) -> np.ndarray:
            draws = np.broadcast_to(np.asarray(keys.draw), len(keys))
            seen.update((keys.seed, keys.stream, int(d)) for d in draws)
            return self.scored(x, keys)

        n0, n = claimed
        spec = self.model.encoder if self.predict is None else _encoder(self.predict, self.model)
        self.certifier(spy, self.x[:1], self.y[:1], encoder=spec, n0=n0, n=n, seed=self.scoring.seed)
        return n0 + n, len(seen)

    def proved_and_broken(self) -> tuple[int, int]:
        """Runs whose label was proved for the ball, and those of them that an attack inside it turned."""
        if self.verify is None:
            return 0, 0
        x, y, ids = self.x.cpu().numpy(), self.y.cpu().numpy(), np.arange(len(self.x))
        images = [self.found(attack, self.eps).x.cpu().numpy() for attack in (self.attack, *self.rivals)]
        proved, broken = 0, 0
        for draw in range(min(self.scoring.draws, 4)):
            keys = Keys(self.scoring.seed, ids, draw, "score")
            sure = np.asarray(self.verify(x, y, self.eps, keys), bool)
            wrong = np.stack([self.scored(z, keys) != y for z in (x, *images)]).any(0)
            proved, broken = proved + int(sure.sum()), broken + int((sure & wrong).sum())
        return proved, broken

    def twin_mismatch(self) -> tuple[float, float]:
        """Share of clean runs, and of attacked ones, in which target and model differ on the same noise."""
        shares = []
        for images in (self.x, self.found(self.attack, self.eps).x):
            ours = measure(self.model, images, self.y, self.scoring.draws, self.scoring.seed)
            theirs = measure(self.scored, images, self.y, self.scoring.draws, self.scoring.seed)
            shares.append(float((ours.classes != theirs.classes).mean()))
        return shares[0], shares[1]

    def certified_flips(self, inside: float = 0.9) -> tuple[int, int]:
        """Certified images, and those whose vote an attack inside the radius turns significantly."""
        n = min(self.certify_images, len(self.x))
        report = self.certifier(
            self.scored,
            self.x[:n],
            self.y[:n],
            encoder=self.model.encoder if self.predict is None else _encoder(self.predict, self.model),
            n=self.certify_n,
            seed=self.scoring.seed,
        )
        sure = [k for k, image in enumerate(report.images) if image.predicted != ABSTAIN]
        if not sure:
            return 0, 0
        norm: Norm = getattr(report, "norm", "l2")
        x = self.x[sure]
        classes = torch.tensor([report.images[k].predicted for k in sure], device=x.device)
        radii = torch.tensor([inside * report.images[k].radius for k in sure], device=x.device)
        turned = np.zeros(len(sure), bool)
        for attack, eps in (
            (Pgd(norm), radii),
            (RandomNoise(norm, restarts=4), radii),
            (RandomNoise(norm), radii / 100),
        ):
            generator = stream_generator(self.scoring.attack_seed, "attack", x.device, 2)
            found = attack(Eot(self.model, self.eot), x, classes, eps, generator=generator)
            turned |= _turned(measure(self.scored, found.x, classes, self.certify_n, self.scoring.seed))
        return len(sure), int(turned.sum())


def _turned(runs: Runs) -> np.ndarray:
    """Images [B] whose class holds significantly less than half of the runs (0.001 over all images)."""
    draws, n = runs.right.shape
    return stats.binom.cdf(runs.right.sum(0), draws, 0.5) < 0.001 / n


def _encoder(predict: Any, model: ModuleModel) -> EncoderSpec:
    known = hasattr(predict, "program") or hasattr(predict, "model") or hasattr(predict, "encoder")
    return encoder_of(as_predictor(predict)) if known else model.encoder
