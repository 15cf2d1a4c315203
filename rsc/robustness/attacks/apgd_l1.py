"""APGD in the L1 ball: sparse steps whose sparsity adapts (Croce and Hein 2021, "Mind the box")."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from rsc.robustness.attacks.base import Query
from rsc.robustness.ball import Ball
from rsc.robustness.losses import Loss

_FIRST_SHARE = 0.2  # of the values that the first step moves
_FINER = 1.5  # a step moves 1/1.5 of the values in which the best point differs; an idle step shrinks by it
_SHRUNK = 0.95  # of the sparsity before: above it the support has settled, and the step shrinks
_STAGES = ((3, 0.3), (2, 0.3), (1, 0.4))  # radius over eps, share of the steps
_LEAST = 0.1  # step size over eps


def ascend_l1(query: Query, ball: Ball, start: Tensor, loss: str | Loss, steps: int) -> Tensor:
    """The iterate of largest mean loss, found in balls of 3 eps, 2 eps and eps (same source, section 4.3).

    The search of one ball begins at the best point of the one before, projected.
    """
    z, spent = start, 0
    for factor, share in _STAGES:
        last = factor == 1
        part = steps - spent if last else max(1, int(share * steps))
        wide = dataclasses.replace(ball, eps=factor * ball.eps)
        if part < 1 or (not last and spent + part >= steps):
            continue
        z = _stage(query, wide, wide.project(z), loss, part, last)
        spent += part
    return z


def _stage(query: Query, ball: Ball, start: Tensor, loss: str | Loss, steps: int, last: bool) -> Tensor:
    """Best point of one ball.

    z <- project(z + step * sign(g) / k on the k largest |g|), exactly onto ball and bounds. At every 4 % of
    the steps k becomes ||best - x||_0 / 1.5; if that support shrank, the step is eps again and the search
    goes on from the best point, else the step shrinks.
    """
    z = best = start
    value, grad = query.gradient(z, loss)
    best_value, best_grad = value, grad
    share, step = torch.full_like(ball.eps, _FIRST_SHARE), ball.eps.clone()
    support, every = torch.full_like(ball.eps, start[0].numel()), max(1, int(0.04 * steps))
    for k in range(steps if last else steps - 1):  # the value at the start is a step of an earlier ball
        z = ball.project(z + step.reshape(ball.radius.shape) * ball.steepest(grad, z, share))
        value, grad = query.gradient(z, loss)
        better = value > best_value
        rows = better.reshape(ball.radius.shape)
        best, best_grad = torch.where(rows, z, best), torch.where(rows, grad, best_grad)
        best_value = torch.where(better, value, best_value)
        if (k + 1) % every == 0:
            now = (best != ball.x).flatten(1).sum(1).to(support)
            shrunk = now < _SHRUNK * support
            share = (now / _FINER / start[0].numel()).clamp_min(1e-12)
            step = torch.where(shrunk, ball.eps, (step / _FINER).maximum(_LEAST * ball.eps))
            rows = shrunk.reshape(ball.radius.shape)
            z, grad, support = torch.where(rows, best, z), torch.where(rows, best_grad, grad), now
    return best
