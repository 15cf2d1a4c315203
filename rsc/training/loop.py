"""The loop: steps, epochs, validation, and a word to whoever keeps the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from rsc.data import Batch
from rsc.errors import RscError
from rsc.training.ema import update
from rsc.training.job import Job, subset
from rsc.training.keeper import Keeper, Stopping
from rsc.training.metrics import EpochStats
from rsc.training.optimiser import parameters_of, set_learning_rate
from rsc.training.progress import Watcher, nobody, progress_of
from rsc.training.schedule import learning_rate
from rsc.training.share import Share
from rsc.training.state import TrainState
from rsc.training.validate import validate

Listener = Callable[[EpochStats], None]


def train(job: Job, state: TrainState, keeper: Keeper, on_epoch: Listener, on_step: Watcher = nobody) -> None:
    """Train from where `state` stands to the end, or until validation has stopped improving.

    Raises:
        RscError: the loss or the weights stopped being finite; a save failed; another rank ended.
        Interrupted: a signal came; the state is saved.
    """
    patience = job.config.validation.patience
    while state.position.epoch < job.config.epochs and not 0 < patience <= state.position.stale:
        stats, improved = _epoch(job, state, keeper, on_step)
        keeper.after_epoch(job, state, stats, improved)
        if job.world.first:
            on_epoch(stats)
        keeper.leave_if_asked(job, state)
    keeper.leave_if_asked(job, state, over=True)
    state.require_finite()


def _epoch(job: Job, state: TrainState, keeper: Keeper, on_step: Watcher) -> tuple[EpochStats, bool]:
    """One epoch, or the rest of one."""
    epoch = state.position.epoch
    if state.position.step == 0:
        state.generator.manual_seed(job.config.seed * 1_000_003 + epoch)
    state.network.train()
    began, before = time.perf_counter(), state.position.seconds
    for passes in job.steps(epoch, state.position.step):
        _step(job, state, passes, keeper)
        state.move(seconds=before + time.perf_counter() - began)
        if job.world.first:
            _tell(job, state, on_step)
        keeper.after_step(job, state)
    trained_s, n = state.position.seconds, len(job.train)
    try:
        found, robust = _evaluate(job, state, keeper)
    except Stopping:
        keeper.leave(job, state)
    seconds = before + time.perf_counter() - began
    stats = EpochStats(
        epoch + 1,
        job.config.epochs,
        state.position.loss_sum / n,
        state.position.hits / n,
        n / trained_s,
        _rate(job, (epoch + 1) * job.per_epoch - 1),
        seconds,
        _remaining(state, seconds, job.config.epochs),
        found,
        robust,
        _terms(state, n),
    )
    state.history.append(stats)
    improved = _note_best(job, state, stats)
    state.move(epoch=epoch + 1, step=0, loss_sum=0.0, hits=0, seconds=0.0, terms=())
    return stats, improved


def _tell(job: Job, state: TrainState, on_step: Watcher) -> None:
    """What the run looks like after a step."""
    at, n = state.position, len(job.train)
    done, whole = (at.epoch, at.step), (job.config.epochs, job.per_epoch)
    seen = min(at.step * job.config.batch_size, n)
    on_step(progress_of("training", done, whole, seen, n, at.loss_sum, at.seconds))


def _terms(state: TrainState, n: int) -> dict[str, float]:
    """Mean of every loss term before its weight, by name; empty if there is one alone."""
    return {name: total / n for name, total in zip(state.objective.names, state.position.terms, strict=False)}


def _step(job: Job, state: TrainState, passes: list[tuple[Batch, int, int]], keeper: Keeper) -> None:
    """One optimiser step over the passes of this rank."""
    config, at = job.config, state.position
    done = at.epoch * job.per_epoch + at.step
    set_learning_rate(state.optimiser, _rate(job, done))
    state.optimiser.zero_grad(set_to_none=True)
    torch.manual_seed(_dropout_seed(config.seed, done, job.world.rank))
    loss_sum, hits, terms = 0.0, 0, [0.0] * _logged_terms(state)
    noise = state.generator.get_state()
    for batch, first, total in passes:
        state.generator.set_state(noise)
        loss, right, rows, parts = _pass(job, state, batch, first, total)
        loss_sum, hits = loss_sum + loss * rows, hits + right
        terms = [sum_ + part * rows for sum_, part in zip(terms, parts, strict=True)]
    parameters = parameters_of(state.optimiser)
    sums = job.world.sum_gradients(parameters, [loss_sum, hits, *terms, *keeper.flags()])
    terms, flags = sums[2 : 2 + len(terms)], sums[2 + len(terms) :]
    keeper.hear(flags)
    size = _size(job, at.step)
    _require_finite(sums[0] / size, at.epoch)
    if config.optimiser.clip_norm:
        torch.nn.utils.clip_grad_norm_(parameters, config.optimiser.clip_norm)
    state.optimiser.step()
    state.objective.after(state.network)
    job.world.average_buffers(state.network)
    if state.average is not None:
        update(state.average, state.network, config.optimiser.ema)
    terms = [a + b for a, b in zip(at.terms or (0.0,) * len(terms), terms, strict=True)]
    state.move(
        step=at.step + 1,
        loss_sum=at.loss_sum + sums[0],
        hits=at.hits + round(sums[1]),
        terms=tuple(terms),
    )


def _logged_terms(state: TrainState) -> int:
    """How many terms are logged by themselves: all, where there are several."""
    names = state.objective.names
    return len(names) if len(names) > 1 else 0


def _rate(job: Job, step: int) -> float:
    """Learning rate of a step of the run."""
    return learning_rate(job.config.schedule, job.config.lr, step, job.total, job.per_epoch)


def _dropout_seed(seed: int, step: int, rank: int) -> int:
    """Seed of torch's global generator in one step, for layers that draw from it, such as dropout."""
    return ((seed * 1_000_003 + step) * 4099 + rank) & (2**63 - 1)


def _size(job: Job, step: int) -> int:
    """Images of a whole batch, over all ranks; only the last batch of an epoch is smaller."""
    return min(job.config.batch_size, len(job.train) - step * job.config.batch_size)


def _pass(
    job: Job, state: TrainState, batch: Batch, first: int, total: int
) -> tuple[float, int, int, list[float]]:
    """Add the gradient of some rows; returns their mean loss, how many were right, how many they are, and
    the mean of each term that is logged."""
    x, y = job.images(batch, state.position.epoch)
    seen: Mapping[str, Tensor] = {} if job.view is None else job.view(state.network)
    step = Share(
        state.network, job.encoder, x, y, state.generator, job.train.bounds, seen, first=first, total=total
    )
    with job.autocast():
        found = state.objective.evaluate(step)
    loss, parts = found.loss, [part.float() for part in found.parts.values()]
    (loss if len(y) == total else loss * (len(y) / total)).backward()
    right = int((found.logits.argmax(1) == y).sum())
    return loss.item(), right, len(y), torch.stack(parts).tolist() if _logged_terms(state) else []


def _evaluate(job: Job, state: TrainState, keeper: Keeper) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Accuracy on the held-out images, and under attack, where it is their turn."""
    config, epoch = job.config, state.position.epoch + 1
    found: Mapping[str, float] = {}
    robust: Mapping[str, float] = {}
    if job.held is None:
        return found, robust
    network = state.evaluated.eval()
    forward = job.forward(network)
    if epoch % config.validation.every == 0 or epoch == config.epochs:
        how = config.validation
        positions = torch.arange(len(job.held)).numpy()
        with job.autocast():
            found = validate(
                forward,
                job.encoder,
                job.held_images,
                positions,
                how.draws,
                config.seed,
                job.world,
                keeper.poll(job),
            )
    looks = config.robustness.every and epoch % config.robustness.every == 0
    if job.probe is not None and job.encoder is not None and looks:
        if job.world.first:
            few = subset(job.held, torch.arange(len(job.held)).numpy()[: config.robustness.images])
            robust = dict(job.probe(forward, job.encoder, few, job.world.device))
        job.world.wait()
    return found, robust


def _note_best(job: Job, state: TrainState, stats: EpochStats) -> bool:
    """Remember the epoch with the highest vote; whether it is this one."""
    if not stats.validation:
        return False
    if stats.validation["vote"] <= state.position.best:
        state.move(stale=state.position.stale + 1)
        return False
    state.move(best=stats.validation["vote"], best_epoch=stats.epoch, stale=0)
    if job.config.validation.restore == "best":
        state.best = {k: v.detach().clone() for k, v in state.evaluated.state_dict().items()}
    return True


def _remaining(state: TrainState, seconds: float, epochs: int) -> float:
    """Seconds left at the mean pace of the last epochs."""
    recent = [*(stats.seconds for stats in state.history[-4:]), seconds]
    return (epochs - state.position.epoch - 1) * sum(recent) / len(recent)


def _require_finite(loss: float, epoch: int) -> None:
    if not torch.isfinite(torch.tensor(loss)):
        raise RscError(
            f"Training stopped in epoch {epoch + 1}.", f"The loss is {loss}.", "Lower the learning rate."
        )
