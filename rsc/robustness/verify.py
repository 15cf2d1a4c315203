"""Verified accuracy of the deployed integer program over L_inf balls: images x noise draws x radii.

Intervals bound every ball (`intervals`); what they leave open may be searched further (`branch_and_bound`).
Finished images are kept in a state file, so that a stopped run goes on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import torch

from rsc.encoder_spec import EncoderSpec
from rsc.errors import InputRefused, MalformedFile, UsageError
from rsc.files import make_parents, write_atomic
from rsc.hw_targets.loihi import LoihiModel, LoihiTarget
from rsc.program import Program
from rsc.progress import Progress, Silent
from rsc.results import Keys, Probe
from rsc.robustness.ball import parse_eps
from rsc.robustness.branch_and_bound import branch_and_bound
from rsc.robustness.intervals import IntervalProgram
from rsc.robustness.intervals_images import Coded, ball
from rsc.robustness.intervals_margin import Readout, proved
from rsc.robustness.plan import duration
from rsc.robustness.verify_report import report_of
from rsc.robustness.verify_results import VerifiedImage, VerifyReport, VerifyState

TARGETS = ("loihi", "lava")  # they run the same integers, bit by bit
_GROUP = 32  # images between two states
_VALUES = 1 << 18  # of the widest layer over all steps that are bounded at a time; stays in caches
_PROBE = 512  # boxes that are timed before the cost is told


@dataclasses.dataclass(frozen=True)
class VerifyPlan:
    """What is verified.

    Fields:
        eps: L_inf radii as the user writes them.
        draws, n0: noise draws per image that estimate and that select; 1 without noise.
        alpha: allowed probability of a false certificate, per image.
        seed: of the noise.
        refine: seconds of branch and bound for each box that intervals leave open; 0 for none.
        target: whose integers: "loihi" or "lava".
    """

    eps: tuple[str, ...]
    draws: int = 100
    n0: int = 100
    alpha: float = 0.001
    seed: int = 0
    refine: float = 0.0
    target: str = "loihi"

    def __post_init__(self) -> None:
        held = min(self.draws, self.n0) >= 1 and 0 < self.alpha < 1 and 0 <= self.refine < math.inf
        if not held or not self.eps:
            raise UsageError(
                f"eps {self.eps}, draws {self.draws}, n0 {self.n0}, alpha {self.alpha}, refine {self.refine} "
                "do not fit.",
                "There is a radius, draws are at least 1, 0 < alpha < 1, and refine is not negative.",
                "Correct them.",
            )
        if self.target not in TARGETS:
            raise UsageError(
                f"Target '{self.target}' cannot be verified.",
                f"Sums in floating point depend on the order of adding; integers: {', '.join(TARGETS)}.",
                "Use --on loihi.",
            )
        if self.seed < 0:
            raise UsageError(f"The seed is {self.seed}.", "Seeds are not negative.", "Use 0 or more.")
        self.radii()

    def radii(self) -> list[tuple[float, str]]:
        """As numbers and as written, rising."""
        return sorted({parse_eps(text) for text in self.eps})

    def of(self, encoder: EncoderSpec) -> VerifyPlan:
        """With a single draw where there is no noise."""
        return self if encoder.stochastic else dataclasses.replace(self, draws=1, n0=1)


def verify(
    program: Program,
    x: np.ndarray,
    y: np.ndarray,
    plan: VerifyPlan,
    *,
    samples: np.ndarray | None = None,
    name: str = "",
    state: Path | None = None,
    listener: Progress | None = None,
    device: torch.device | str = "cpu",
) -> VerifyReport:
    """Verify images one group after another.

    Args:
        x: images [N, ...] in the program's bounds; y: labels [N].
        samples: identity of the images, keys of the noise.
        state: file that keeps what is finished; one of the same run is continued.

    Raises:
        UsageError: no encoder or bounds, no images, a state of another run.
        UnsupportedNode: the program has no integer form, or several inputs.
    """
    run = _Run.of(program, x, y, plan, samples, device)
    listener = listener or Silent()
    before = _read(state, run.fingerprint) if state is not None else VerifyState(run.fingerprint)
    left = len(run.x) - len(before.images)
    if left:
        listener.stage(run.cost(left))
    start, images = time.perf_counter(), before.images
    listener.advance(len(images), len(run.x))
    for first in range(len(images), len(run.x), run.group):
        images += tuple(run.images(slice(first, min(first + run.group, len(run.x)))))
        spent = before.wall_s + time.perf_counter() - start
        if state is not None:
            write_atomic(state, msgspec.json.encode(VerifyState(run.fingerprint, images, spent)))
        listener.advance(len(images), len(run.x))
    wall = before.wall_s + time.perf_counter() - start
    plan, encoder = run.plan, run.encoder
    return report_of(program, encoder, plan, images, name, wall)


def _read(path: Path, fingerprint: str) -> VerifyState:
    """The state in a file; a fresh one if there is none."""
    make_parents(path)
    try:
        found = msgspec.json.decode(path.read_bytes(), type=VerifyState)
    except FileNotFoundError:
        return VerifyState(fingerprint)
    except (OSError, msgspec.DecodeError) as error:
        raise MalformedFile(
            f"'{path}' holds no state of a verification.", str(error), "Remove it or name another file."
        ) from error
    if found.fingerprint != fingerprint:
        raise UsageError(
            f"The state in '{path}' is of another run.",
            "Program, images, radii, draws, alpha, seed and refinement must be the same.",
            "Repeat that run, or name another file.",
        )
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class _Run:
    """One verification: program, images, plan."""

    program: Program
    encoder: EncoderSpec
    bounds: tuple[float, float]
    x: np.ndarray
    y: np.ndarray
    samples: np.ndarray
    plan: VerifyPlan
    model: LoihiModel
    readout: Readout

    @classmethod
    def of(
        cls,
        program: Program,
        x: np.ndarray,
        y: np.ndarray,
        plan: VerifyPlan,
        samples: np.ndarray | None,
        device: torch.device | str,
    ) -> _Run:
        if program.encoder is None or program.bounds is None:
            raise UsageError(
                "This program cannot be verified.",
                "It names no encoder or no bounds.",
                "Export it with both.",
            )
        images, labels = np.asarray(x, np.float32), np.asarray(y, np.int64)
        if not len(images) == len(labels) > 0:
            raise InputRefused(
                f"{len(images)} images came with {len(labels)} labels.", "Each has one.", "Match them."
            )
        model = LoihiTarget(*([] if str(device) == "cpu" else ["cuda"])).compile(program)
        assert isinstance(model, LoihiModel)
        readout = Readout(IntervalProgram(model.layered, device), program.semantics.readout)
        ids = np.arange(len(images)) if samples is None else np.asarray(samples, np.int64)
        plan = plan.of(program.encoder)
        return cls(program, program.encoder, program.bounds, images, labels, ids, plan, model, readout)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides the result."""
        sha = hashlib.sha256(self.program.digest.encode())
        sha.update(repr(dataclasses.astuple(self.plan)).encode())
        for part in (self.x, self.y, self.samples):
            sha.update(f"{part.shape} {part.dtype.str}".encode() + np.ascontiguousarray(part).tobytes())
        return sha.hexdigest()

    @property
    def group(self) -> int:
        """Images that are finished together."""
        return max(1, min(_GROUP, self.rows // self.plan.draws))

    @property
    def rows(self) -> int:
        """Boxes at a time, so that memory is bounded."""
        layered = self.readout.program.layered
        widest = max(math.prod(s.shape) for s in (*layered.layers, *layered.inputs))
        return max(1, min(4096, _VALUES // (widest * self.encoder.steps)))

    def cost(self, images: int) -> str:
        """What is about to be done, and how long it takes by a first measurement."""
        plan = self.plan
        boxes = images * plan.draws * len(plan.eps)
        timed = min(_PROBE, self.rows)
        image, draw, start = np.zeros(timed, int), np.arange(timed) % plan.draws, 0.0
        for _ in range(2):  # the first call also warms up
            start = time.perf_counter()
            self._proved(image, self._coded(image, draw)[1], plan.radii()[-1][0])
        seconds = boxes * (time.perf_counter() - start) / timed
        more = f", at most {duration(boxes * plan.refine)} more of branch and bound" if plan.refine else ""
        return (
            f"verifying {images} images x {plan.draws} draws x {len(plan.eps)} radii: {boxes:,} boxes, "
            f"about {duration(seconds)}{more}"
        )

    def images(self, where: slice) -> Iterator[VerifiedImage]:
        """The outcomes of some images."""
        index = np.arange(len(self.x))[where]
        predicted = self._plurality(index)
        right = predicted == self.y[index]
        tallies = {int(i): _Tally(len(self.plan.radii())) for i in index}
        pairs = [(i, d) for i in index for d in range(self.plan.draws)]
        for at in range(0, len(pairs), self.rows):
            image, draw = (np.array(p) for p in zip(*pairs[at : at + self.rows], strict=True))
            self._count(image, draw, tallies, right[image - index[0]])
        for i, label in zip(index, predicted, strict=True):
            yield tallies[int(i)].image(int(self.samples[i]), int(self.y[i]), int(label))

    def _plurality(self, index: np.ndarray) -> np.ndarray:
        """Classes [n] that the runs of stream "select" name most often."""
        n0, tally = self.plan.n0, []
        for i in index:
            keys = Keys(self.plan.seed, np.full(n0, self.samples[i]), np.arange(n0), "select")
            images = np.broadcast_to(self.x[i], (n0, *self.x.shape[1:]))
            tally.append(np.bincount(self._classes(images, keys)).argmax())
        return np.array(tally)

    def _classes(self, images: np.ndarray, keys: Keys) -> np.ndarray:
        return self.model.run(images, keys, Probe(counts=False)).predictions

    def _coded(self, image: np.ndarray, draw: np.ndarray) -> tuple[Keys, Coded]:
        keys = Keys(self.plan.seed, self.samples[image], draw, "estimate")
        return keys, Coded.drawn(self.readout.program.layered, self.encoder, keys)

    def _count(
        self, image: np.ndarray, draw: np.ndarray, tallies: dict[int, _Tally], right: np.ndarray
    ) -> None:
        """Add some (image, draw) pairs to the tallies."""
        keys, coded = self._coded(image, draw)
        hit = self._classes(self.x[image], keys) == self.y[image]
        for i in np.unique(image):
            tallies[int(i)].hits += int(hit[image == i].sum())
        keep = np.flatnonzero(right)
        if not len(keep):
            return
        image, hit, coded = image[keep], hit[keep], coded.rows(keep)
        for k, (eps, _) in enumerate(self.plan.radii()):
            won, firing = self._proved(image, coded, eps)
            lost = self._search(image, coded, eps, won, hit) if self.plan.refine else np.zeros_like(won)
            for i in np.unique(image):
                mine = image == i
                tallies[int(i)].add(k, int(won[mine].sum()), int(lost[mine].sum()), firing[:, mine].sum(1))

    def _proved(self, image: np.ndarray, coded: Coded, eps: float) -> tuple[np.ndarray, np.ndarray]:
        """bool [B], and neuron-steps [3, B] that never, always, and perhaps fire."""
        low, high = ball(self.x[image], eps, self.bounds)
        program = self.readout.program
        found = program.bounds(coded.boxes(low, high))
        won = proved(self.readout.margins(found, torch.from_numpy(self.y[image])))
        return won.cpu().numpy(), program.stability_by_row(found).cpu().numpy()

    def _search(
        self, image: np.ndarray, coded: Coded, eps: float, won: np.ndarray, hit: np.ndarray
    ) -> np.ndarray:
        """Branch and bound on open boxes; marks more of `won`, returns those refuted."""
        lost = ~hit & ~won
        for row in np.flatnonzero(hit & ~won):
            low, high = ball(self.x[image[row]], eps, self.bounds)
            one = coded.rows(np.array([row]))
            label = int(self.y[image[row]])
            found = branch_and_bound(self.readout, one, low, high, label, seconds=self.plan.refine)
            won[row], lost[row] = found.status == "proved", found.status == "refuted"
        return lost


class _Tally:
    """Counts of one image."""

    def __init__(self, radii: int) -> None:
        self.hits, self.proved, self.refuted = 0, [0] * radii, [0] * radii
        self.firing = np.zeros((3, radii), np.int64)

    def add(self, k: int, proved: int, refuted: int, firing: np.ndarray) -> None:
        """Some draws at radius k."""
        self.proved[k] += proved
        self.refuted[k] += refuted
        self.firing[:, k] += firing

    def image(self, sample: int, label: int, predicted: int) -> VerifiedImage:
        """The outcome."""
        firing = (tuple(int(n) for n in row) for row in self.firing)
        return VerifiedImage(
            sample, label, predicted, self.hits, tuple(self.proved), tuple(self.refuted), *firing
        )
