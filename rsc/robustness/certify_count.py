"""Counting outcomes of many draws of many images: in batches, resumable, shared among processes.

The work is a list of units, each a chunk of the draws of one series for one image. A batch is made of whole
units, so that small series (the selection) fill it together. With keyed noise the counts depend on the job
alone: not on batches, not on how many processes there are, not on how often they were killed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import torch

from rsc.errors import RscError, UsageError
from rsc.hw_targets.base import DeployedModel
from rsc.program import EncoderSpec
from rsc.results import Keys
from rsc.robustness.certify_state import Tally, TallyFolder, Unit
from rsc.robustness.model import device_of
from rsc.robustness.predict import Predictor, checked, name_of, source_of

FRAME_BYTES = 3 << 20  # of a batch: fewer calls, and networks infer in tiles that fit the cache
GPU_FRAME_BYTES = 64 << 20
LARGEST_BATCH = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """Draws of one kind for every image.

    Fields:
        predict: (images, keys) -> outcomes, int64 [B].
        stream: of the noise; series that must not share noise differ in it, or in their draws.
        draws: how many, fixed beforehand.
        first: number of the first draw.
    """

    predict: Predictor
    stream: Literal["run", "select", "estimate"]
    draws: int
    first: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """What is to be counted.

    Fields:
        images: [N, ...]; ids: int64 [N], their identity, keys of the noise.
        series: of every image.
        chunk: draws per unit.
        batch: runs per call, the bound on memory; a batch holds at least one unit.
    """

    images: np.ndarray
    ids: np.ndarray
    series: tuple[Series, ...]
    seed: int
    chunk: int
    batch: int

    def units(self) -> Iterator[Unit]:
        """All of them, image by image."""
        chunks = [-(-s.draws // self.chunk) for s in self.series]
        for image in range(len(self.images)):
            for k, count in enumerate(chunks):
                yield from (Unit(image, k, c) for c in range(count))

    def draws(self, unit: Unit) -> range:
        """Numbers of the draws of a unit."""
        series = self.series[unit.series]
        start = unit.chunk * self.chunk
        return range(series.first + start, series.first + min(start + self.chunk, series.draws))

    def digest(self, encoder: EncoderSpec, identity: str) -> str:
        """Names everything that the counts depend on."""
        parts = [(s.stream, s.first, s.draws, source_of(s.predict), name_of(s.predict)) for s in self.series]
        head = msgspec.json.encode([encoder, identity, parts, self.seed, self.chunk, self.images.shape])
        whole = hashlib.sha256(head)
        whole.update(np.ascontiguousarray(self.images, np.float32).tobytes())
        whole.update(np.ascontiguousarray(self.ids, np.int64).tobytes())
        return whole.hexdigest()


@dataclasses.dataclass(frozen=True)
class Share:
    """This process among `size` that work on the same folder; torchrun's variables say which it is.

    Ranks do not talk: each takes every size-th unit, and reads the others' files at the end. So they may be
    processes, machines with a common disk, or runs one after another.

    Fields:
        patience_s: how long to wait for others that finish nothing.
    """

    rank: int = 0
    size: int = 1
    patience_s: float = 600.0

    @classmethod
    def of_process(cls) -> Share:
        """What RANK and WORLD_SIZE say; one alone without them."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def batch_for(shape: Sequence[int], steps: int, frame_bytes: int = FRAME_BYTES) -> int:
    """Runs whose frames float32 [T, B, *shape] take so many bytes, 1 to 4096."""
    return int(np.clip(frame_bytes // (4 * steps * max(1, int(np.prod(shape)))), 1, LARGEST_BATCH))


def frame_bytes(predict: Any) -> int:
    """What suits the device that predicts."""
    model = getattr(predict, "model", predict)
    device = model.device if hasattr(model, "device") else device_of(model)
    return GPU_FRAME_BYTES if str(device).startswith("cuda") else FRAME_BYTES


def count(
    job: Job,
    tallies: TallyFolder | None = None,
    share: Share | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[Tally]]:
    """Outcomes of every image and series: [N][series] -> {outcome: how often}; the same on every rank.

    Raises:
        UsageError: several ranks and no folder that they share.
        RscError: other ranks did not finish their share.
    """
    share = share or Share()
    if share.size > 1 and tallies is None:
        raise UsageError(
            f"{share.size} processes were started.", "They meet in a folder.", "Give one (--state FOLDER)."
        )
    done = {} if tallies is None else tallies.done
    units = list(job.units())
    total = sum(len(job.draws(unit)) for unit in units)
    spent = sum(len(job.draws(unit)) for unit in done)
    on_progress(spent, total)
    mine = [unit for unit in units[share.rank :: share.size] if unit not in done]
    for batch in _batches(job, mine):
        finished = _run(job, batch)
        if tallies is None:
            done.update(finished)
        else:
            tallies.add(finished)
        spent += sum(len(job.draws(unit)) for unit in batch)
        on_progress(spent, total)
    if tallies is not None:
        tallies.close()
        _wait(tallies, len(units), share)
    return _summed(job, done)


def _batches(job: Job, units: Sequence[Unit]) -> Iterator[list[Unit]]:
    """Whole units of one series, as many as fit; noise of a generator is never packed.

    Such noise depends on what is in a batch: alone in it, a unit is the same whoever runs it.
    """
    batch: list[Unit] = []
    size = 0
    for unit in sorted(units, key=lambda u: (u.series, u)):
        need = len(job.draws(unit))
        fits = size + need <= job.batch and source_of(job.series[unit.series].predict) == "keyed"
        if batch and not (fits and unit.series == batch[0].series):
            yield batch
            batch, size = [], 0
        batch.append(unit)
        size += need
    if batch:
        yield batch


def _run(job: Job, units: Sequence[Unit]) -> dict[Unit, Tally]:
    """Outcomes of the units of one batch."""
    series = job.series[units[0].series]
    sizes = [len(job.draws(unit)) for unit in units]
    image = np.repeat([unit.image for unit in units], sizes)
    draws = np.concatenate([np.asarray(job.draws(unit)) for unit in units])
    outcomes = np.empty(len(image), np.int64)
    keyed = source_of(series.predict) == "keyed"
    step = job.batch if keyed else len(image)  # a unit alone may be larger than a batch
    for at in range(0, len(image), step):
        part = slice(at, at + step)
        keys = Keys(job.seed, job.ids[image[part]], draws[part], series.stream)
        outcomes[part] = checked(series.predict(job.images[image[part]], keys), len(image[part]))
    pieces = np.split(outcomes, np.cumsum(sizes)[:-1])
    return {unit: _tally(piece) for unit, piece in zip(units, pieces, strict=True)}


def _tally(outcomes: np.ndarray) -> Tally:
    values, counts = np.unique(outcomes, return_counts=True)
    return {int(v): int(c) for v, c in zip(values, counts, strict=True)}


def _wait(tallies: TallyFolder, units: int, share: Share) -> None:
    """Until the others have finished their share, too."""
    known, since = len(tallies.done), time.monotonic()
    while len(tallies.done) < units:
        tallies.refresh()
        if len(tallies.done) > known:
            known, since = len(tallies.done), time.monotonic()
        elif time.monotonic() - since > share.patience_s:
            raise RscError(
                f"{units - known} of {units} units are missing.",
                f"The other processes finished nothing for {share.patience_s:g} s.",
                "Run the same command again: it does what is missing.",
            )
        if len(tallies.done) < units:
            time.sleep(0.1)


def _summed(job: Job, done: dict[Unit, Tally]) -> list[list[Tally]]:
    """Chunks added up; every unit must hold just its draws."""
    whole: list[list[Tally]] = [[{} for _ in job.series] for _ in job.images]
    for unit in job.units():
        if sum(done[unit].values()) != len(job.draws(unit)):
            raise RscError(
                f"Chunk {unit.chunk} of image {unit.image} counts {sum(done[unit].values())} draws.",
                f"It has {len(job.draws(unit))}.",
                "Use another folder.",
            )
        into = whole[unit.image][unit.series]
        for outcome, number in done[unit].items():
            into[outcome] = into.get(outcome, 0) + number
    return whole


def identity_of(predict: Any) -> str:
    """A digest of what predicts: program and target, or weights.

    Raises:
        UsageError: a plain function, which has none.
    """
    model = getattr(predict, "model", predict)
    named = getattr(predict, "identity", None)
    if isinstance(named, str):
        return named
    if isinstance(model, DeployedModel):
        return f"{model.program.digest}/{model.target}/{model.arithmetic}/{model.version}"
    module = getattr(model, "module", None)
    if isinstance(module, torch.nn.Module):
        whole = hashlib.sha256(f"{module!r}{getattr(model, 'readout', '')}".encode())
        for name, tensor in sorted(module.state_dict().items()):
            whole.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return whole.hexdigest()
    raise UsageError(
        "A plain function cannot go on from a folder.",
        "Nothing says whether it is the same function.",
        "Give it an attribute `identity`, a text that changes when it does, or use no folder.",
    )
