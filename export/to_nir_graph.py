"""A NIR graph in the making: values are sums of what nodes give; nodes get their names at the end."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import nir
import numpy as np
from torch import nn

from rsc.errors import UnsupportedNode
from rsc.export.to_nir_layers import Shape
from rsc.export.to_nir_norm import WEIGHTED, fold

INPUT, OUTPUT = "input", "output"


@dataclasses.dataclass(eq=False)
class Site:
    """A node.

    Fields:
        kind, path: what it does, and of which module; its name is made of them.
        sources: what it hears, summed.
        unfolded: where a batch norm is folded in, the weights before it.
    """

    kind: str
    path: str
    node: Any
    sources: tuple[Site, ...] = ()
    unfolded: Site | None = None


@dataclasses.dataclass(eq=False)
class Value:
    """What flows through the network: the sum of what some nodes give.

    Fields:
        sources: the nodes; one that occurs twice counts twice.
        shape: of one sample at one step.
        viewed: whether there may be views of it, so that it must not change in place.
        reduced: how it was reduced over time, "" if it was not.
    """

    sources: tuple[Site, ...]
    shape: Shape
    viewed: bool = False
    reduced: str = ""


class GraphBuilder:
    """Collects nodes.

    Args:
        shape: of one frame.
        chain: whether the network is an nn.Sequential. If it is one of plain layers, its nodes are named by
            their kind and a number, instead of by the path of their module.
    """

    def __init__(self, shape: Shape, chain: bool) -> None:
        self.chain = chain
        self.sites = [Site(INPUT, INPUT, nir.Input(input_type={"input": np.array(shape)}))]
        self.input = Value((self.sites[0],), shape)

    def add(self, kind: str, path: str, node: Any, value: Value, shape: Shape) -> Value:
        """What a new node gives that hears a value."""
        site = Site(kind, path, node, self._distinct(value))
        self.sites.append(site)
        return Value((site,), shape)

    def add_norm(self, path: str, norm: nn.Module, value: Value) -> Value:
        """What a batch norm gives, folded into a copy of the weights that feed it.

        Raises:
            UnsupportedNode: no weights feed it, or others, too; or see `fold`.
        """
        (before, *others) = value.sources
        if others or not isinstance(before.node, WEIGHTED):
            raise UnsupportedNode(
                f"A {type(norm).__name__} does not follow a Conv1d, Conv2d or Linear.",
                "There is nothing to fold it into.",
                "Move it behind one, or put a Conv2d(C, C, 1, groups=C) in front of it.",
            )
        site = Site(before.kind, path, fold(before.node, norm), before.sources, before)
        self.sites.append(site)
        return Value((site,), value.shape)

    def finished(self, value: Value) -> nir.NIRGraph:
        """The graph whose output is a value; what does not lead there is left out."""
        output = Site(OUTPUT, OUTPUT, nir.Output(output_type={"output": np.array(value.shape)}))
        output.sources = self._distinct(value)
        wanted = {self.sites[0]} | _leading_to(output)
        sites = [site for site in [*self.sites, output] if site in wanted]
        names = self._names(sites)
        edges = [(names[before], names[site]) for site in sites for before in site.sources]
        return nir.NIRGraph({names[site]: site.node for site in sites}, edges)

    def _distinct(self, value: Value) -> tuple[Site, ...]:
        """The nodes of a value, each once: edges do not count, so n times the same goes through a factor."""
        found = []
        for source, count in collections.Counter(value.sources).items():
            if count > 1:
                node = nir.Scale(np.full(value.shape, float(count), np.float32))
                source = Site("scale", f"{source.path}.times{count}", node, (source,))
                self.sites.append(source)
            found.append(source)
        return tuple(found)

    def _names(self, sites: list[Site]) -> dict[Site, str]:
        alive, taken = set(sites), {INPUT, OUTPUT}
        plain = self.chain and not any("." in site.path for site in sites)
        names = {sites[0]: INPUT, sites[-1]: OUTPUT}
        for site in sites[1:-1]:
            origin = site
            while origin.unfolded is not None and origin.unfolded not in alive:
                origin = origin.unfolded
            numbered = plain or not origin.path
            name = site.kind + "1" if numbered else origin.path.replace(".", "_").replace("/", "_")
            stem, count = (site.kind, 1) if numbered else (f"{name}_", 1)
            while name in taken:
                count += 1
                name = f"{stem}{count}"
            names[site] = name
            taken.add(name)
        return names


def _leading_to(output: Site) -> set[Site]:
    found, pending = {output}, [output]
    while pending:
        fresh = [site for site in pending.pop().sources if site not in found]
        found.update(fresh)
        pending += fresh
    return found
