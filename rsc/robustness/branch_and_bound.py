"""Branch and bound over undecided neurons and inputs: a complete search with an answer at any time.

A node of the tree is a box of images and a set of assumed spikes; its bound is that of the intervals. The
worst node is split in two: at a neuron-step that may or may not fire, or at a pixel; "auto" tries both and
keeps the pair whose worse child is better (strong branching). The middle of every node and the corner
that the gradient points to are run; an image that is misclassified ends the search. All in exact integers,
so "proved" is proved.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import time
import warnings
from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from rsc.hw_targets.loihi import LoihiModel
from rsc.layered import LayeredProgram
from rsc.robustness.intervals import Bounds, IntervalProgram, payload_box
from rsc.robustness.intervals_box import Box
from rsc.robustness.intervals_margin import Readout

Split = Literal["auto", "neuron", "input"]
Status = Literal["proved", "refuted", "unknown"]
_HALVINGS = 40


class Coding(Protocol):
    """Payload boxes of boxes of images."""

    def boxes(self, low: np.ndarray, high: np.ndarray) -> dict[str, Box]:
        """[T, B, ...] by Input node, of images between two [B, ...]."""
        ...

    def rows(self, index: np.ndarray) -> Coding:
        """The coding of some rows."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Frames:
    """Frames of the only Input node themselves, as "images" [B, T, ...]: the steps are independent."""

    layered: LayeredProgram

    def boxes(self, low: np.ndarray, high: np.ndarray) -> dict[str, Box]:
        """Rounded and clipped."""
        (source,) = self.layered.inputs
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of coarse frames: the halves are ours
            return {source.name: payload_box(source, np.moveaxis(low, 1, 0), np.moveaxis(high, 1, 0))}

    def rows(self, index: np.ndarray) -> Frames:
        """The same for all."""
        return self


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What a search found.

    Fields:
        status: "proved", "refuted" (with `image`), or "unknown" where time or nodes ran out.
        bound: lower bound of the smallest margin in the box, logit units; infinite if nothing remains open.
        best: smallest margin of an image that was run.
        image: a misclassified image [...].
        nodes: boxes that were bounded.
        wall_s: seconds.
    """

    status: Status
    bound: float
    best: float
    image: np.ndarray | None
    nodes: int
    wall_s: float


@dataclasses.dataclass(frozen=True)
class _Cut:
    """Where a node can be split: a pixel (layer ""), or a neuron-step of a layer [T, ...] of this shape."""

    layer: str
    where: tuple[int, ...]
    shape: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class _Node:
    """A box of images, spikes int8 [T, ...] that are assumed by layer, and what is known of it."""

    low: np.ndarray
    high: np.ndarray
    forced: dict[str, Tensor]
    bound: float = -np.inf
    cuts: tuple[_Cut, ...] = ()


def branch_and_bound(
    readout: Readout,
    coding: Coding,
    low: np.ndarray,
    high: np.ndarray,
    y: int,
    *,
    seconds: float = 10.0,
    nodes: int = 100_000,
    split: Split = "auto",
    width: int = 16,
    on_bound: Callable[[float, int], None] = lambda bound, nodes: None,
) -> Outcome:
    """Search one box of images for one that is not classified as y.

    Args:
        coding: of one row.
        low, high: ends of the box [...].
        seconds, nodes: budget; what is known when it ends is returned.
        width: nodes split at a time.
        on_bound: told the bound so far and how many nodes it took.
    """
    return _Search(readout, coding, y, split).run(low, high, seconds, nodes, width, on_bound)


class _Search:
    def __init__(self, readout: Readout, coding: Coding, y: int, split: Split) -> None:
        self.readout, self.coding, self.y, self.split = readout, coding, y, split
        self.program: IntervalProgram = readout.program
        layered, device = self.program.layered, self.program.device
        self.model = LoihiModel(None, layered, device, straight_through=True)
        self.influence = {name: _influence(self.program, name) for name in _heard(self.program)}
        self.best, self.count = np.inf, 0
        self.image: np.ndarray | None = None
        self.tie = itertools.count()

    def run(
        self,
        low: np.ndarray,
        high: np.ndarray,
        seconds: float,
        nodes: int,
        width: int,
        on_bound: Callable[[float, int], None],
    ) -> Outcome:
        start = time.perf_counter()
        left: list[tuple[float, int, _Node]] = []
        floor = np.inf  # of nodes that cannot be split
        self._push(left, self._bounded([_Node(low, high, {})]))
        while left and self.image is None:
            on_bound(min(left[0][0], floor), self.count)
            if time.perf_counter() - start > seconds or self.count >= nodes:
                break
            chosen = [heapq.heappop(left)[2] for _ in range(min(width, len(left)))]
            floor = min([floor, *(n.bound for n in chosen if not n.cuts)])
            self._push(left, self._split([n for n in chosen if n.cuts]))
        bound = min([floor, *(entry[0] for entry in left[:1])])
        status: Status = "unknown"
        if self.image is not None:
            status, bound = "refuted", min(bound, self.best)
        elif not left and floor == np.inf:
            status = "proved"
        return Outcome(status, float(bound), float(self.best), self.image, self.count, _since(start))

    def _push(self, left: list[tuple[float, int, _Node]], found: list[_Node]) -> None:
        for node in found:
            if not node.bound > 0:
                heapq.heappush(left, (node.bound, next(self.tie), node))

    def _split(self, parents: list[_Node]) -> list[_Node]:
        """Children of all parents, by each one's better candidate."""
        pairs = [(i, c) for i, n in enumerate(parents) for c in n.cuts]
        children = self._bounded([child for i, c in pairs for child in self._children(parents[i], c)])
        chosen: dict[int, list[_Node]] = {}
        for k, (i, _) in enumerate(pairs):
            pair = children[2 * k : 2 * k + 2]
            old = chosen.get(i)
            if old is None or min(n.bound for n in pair) > min(n.bound for n in old):
                chosen[i] = pair
        return [child for pair in chosen.values() for child in pair]

    def _bounded(self, nodes: list[_Node]) -> list[_Node]:
        """The nodes with bounds and candidates; runs their middle images."""
        if not nodes:
            return []
        low, high = (np.stack([getattr(n, end) for n in nodes]) for end in ("low", "high"))
        coding = self.coding.rows(np.zeros(len(nodes), int))
        inputs = coding.boxes(low, high)
        names = {name for n in nodes for name in n.forced}
        blank = {name: next(n.forced[name] for n in nodes if name in n.forced) for name in names}
        forced = {
            name: torch.stack([n.forced.get(name, torch.full_like(x, -1)) for n in nodes], 1)
            for name, x in blank.items()
        }
        bounds = self.program.bounds(inputs, forced=forced)
        least = self.readout.margins(bounds, self._labels(len(nodes))).amin(1)
        self.count += len(nodes)
        middle = ((low.astype(np.float64) + high.astype(np.float64)) / 2).astype(low.dtype).clip(low, high)
        self._try(middle, coding)
        self._try(np.where(self._slope(middle, coding) > 0, low, high), coding)
        return [
            dataclasses.replace(n, bound=b, cuts=self._cuts(n, i, inputs, bounds))
            for i, (n, b) in enumerate(zip(nodes, least.tolist(), strict=True))
        ]

    def _labels(self, n: int) -> Tensor:
        return torch.full((n,), self.y, dtype=torch.int64, device=self.program.device)

    def _slope(self, images: np.ndarray, coding: Coding) -> np.ndarray:
        """Direction [B, ...] in which the margin of each image rises, by straight-through gradients."""
        ((name, box),) = coding.boxes(images, images).items()
        layered = self.program.layered
        frames = (box.low.float() / layered.sources[name].scale).requires_grad_(True)
        with torch.enable_grad():
            out = self.model.forward({name: frames})[layered.outputs[0][0]].flatten(2)
            z = out[-1] if self.readout.rule == "last" else out.sum(0)
            margin = z[:, self.y] - z.index_fill(1, self._labels(1), -torch.inf).amax(1)
            (slope,) = torch.autograd.grad(margin.sum(), frames)
        if slope[:, 0].shape == images[0].shape:  # images that are frames
            return slope.movedim(1, 0).cpu().numpy()
        return slope.sum(0).cpu().numpy()

    def _try(self, points: np.ndarray, coding: Coding) -> None:
        """Run one image of every node."""
        bounds = self.program.bounds(coding.boxes(points, points))
        z = self.readout.logits(bounds).low
        others = z.clone()
        others[:, self.y] = -torch.inf
        margin = z[:, self.y] - others.amax(1)
        worst = int(margin.argmin())
        self.best = min(self.best, float(margin[worst]))
        if float(margin[worst]) < 0 and self.image is None:
            self.image = points[worst]

    def _cuts(self, node: _Node, row: int, inputs: dict[str, Box], bounds: Bounds) -> tuple[_Cut, ...]:
        found = [self._pixel(node, row, inputs), self._neuron(row, bounds)]
        if self.split != "auto":
            found = found[:1] if self.split == "input" else found[::-1]
            found = [c for c in found if c is not None][:1]  # pixels where no neuron is undecided
        return tuple(c for c in found if c is not None)

    def _pixel(self, node: _Node, row: int, inputs: dict[str, Box]) -> _Cut | None:
        """The pixel whose payloads span most, weighed by the weights behind it."""
        ((name, box),) = inputs.items()
        span = (box.high[:, row] - box.low[:, row]).double() * self.influence[name]
        flat = span if span.shape == node.low.shape else span.sum(0)
        flat = flat.cpu().numpy() * (node.high > node.low)
        if not flat.max() > 0:
            return None
        return _Cut("", _index(int(flat.argmax()), flat.shape))

    def _neuron(self, row: int, bounds: Bounds) -> _Cut | None:
        """The undecided neuron-step with the heaviest synapses."""
        best, found = 0.0, None
        for layer in self.program.layered.layers:
            if layer.name not in self.influence:
                continue
            weight = bounds.layers[layer.name].unstable[:, row] * self.influence[layer.name]
            if float(weight.max()) > best:
                best = float(weight.max())
                found = _Cut(layer.name, _index(int(weight.argmax()), weight.shape), tuple(weight.shape))
        return found

    def _children(self, node: _Node, cut: _Cut) -> list[_Node]:
        """The two halves of a node."""
        where = cut.where
        if not cut.layer:
            low, high = node.low.copy(), node.high.copy()
            high[where] = self._middle(node, where)
            low[where] = np.nextafter(high[where], node.high[where])
            return [dataclasses.replace(node, high=high), dataclasses.replace(node, low=low)]
        before = node.forced.get(cut.layer, torch.full(cut.shape, -1, dtype=torch.int8))
        halves = []
        for spike in (0, 1):
            forced = before.clone()
            forced[where] = spike
            halves.append(dataclasses.replace(node, forced=node.forced | {cut.layer: forced}))
        return halves

    def _middle(self, node: _Node, where: tuple[int, ...]) -> np.floating:
        """Largest value of a pixel whose payloads are in the lower half, so that no payload is in both."""
        coding = self.coding.rows(np.zeros(1, int))

        def sent(value: np.floating) -> float:
            image = node.low.copy()
            image[where] = value
            (box,) = coding.boxes(image[None], image[None]).values()
            return float(box.low.double().sum())

        low, high = node.low[where], node.high[where]
        first, last = sent(low), sent(high)
        for _ in range(_HALVINGS):
            middle = low + (high - low) / 2
            if not low < middle < high:
                break
            if abs(sent(middle) - first) <= abs(last - first) / 2:
                low = middle
            else:
                high = middle
        return low


def _influence(program: IntervalProgram, name: str) -> Tensor:
    """Sum of |W| over all synapses that leave a source or a layer, of its shape."""
    total: Tensor | None = None
    for layer in program.layered.layers:
        for source, one in program.synapses(layer.name):
            if source != name:
                continue
            shape = one.connection.source_shape
            for term in one.terms:
                x = torch.zeros((1, *shape), dtype=torch.float64, device=program.device, requires_grad=True)
                with torch.enable_grad():
                    out = one.exact.linear(x, term.size.double()).sum()
                (grad,) = torch.autograd.grad(out, x)
                part = grad[0] * 2.0**one.connection.weight_exp
                total = part if total is None else total + part.reshape(total.shape)
    assert total is not None
    return total


def _heard(program: IntervalProgram) -> list[str]:
    """Sources and layers that some layer hears."""
    heard = {c.source for layer in program.layered.layers for c in layer.connections}
    names = [*program.layered.sources, *program.layered.by_name]
    return [name for name in names if name in heard]


def _index(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat, tuple(shape)))


def _since(start: float) -> float:
    return time.perf_counter() - start
