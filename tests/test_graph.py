"""Topology and shapes of NIR graphs."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import nir
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsc.errors import InputRefused
from rsc.graph import flatten, topology
from rsc.program import Semantics
from rsc.shapes import infer_shapes, window

DT = 1e-3
EULER = Semantics(DT)


def ends(*shape: int) -> dict[str, Any]:
    return {"input": nir.Input({"input": np.array(shape)}), "output": nir.Output({"output": np.array(shape)})}


def lif(n: int = 2) -> nir.LIF:
    ones = np.ones(n)
    return nir.LIF(2 * DT * ones, 2 * ones, 0 * ones, ones, 0 * ones)


def linear(n: int = 2) -> nir.Linear:
    return nir.Linear(np.eye(n))


def graph(nodes: dict[str, Any], *edges: str) -> nir.NIRGraph:
    return nir.NIRGraph(nodes, [(e.split()[0], e.split()[1]) for e in edges], type_check=False)


def delayed(of: nir.NIRGraph, semantics: Semantics = EULER) -> set[tuple[str, str]]:
    return set(topology(of, semantics).delayed)


def test_nested_graphs_open_to_dotted_names() -> None:
    inner = graph(ends(2) | {"w": linear()}, "input w", "w output")
    nodes, edges = flatten(graph(ends(2) | {"g": inner}, "input g", "g output"))
    assert set(nodes) == {"input", "output", "g.input", "g.w", "g.output"}
    assert set(edges) == {("input", "g.input"), ("input", "g.w"), ("g.w", "g.output"), ("g.w", "output")}


def test_a_port_of_a_nested_graph_must_be_named_where_there_are_several() -> None:
    inner = graph(
        {
            "a": nir.Input({"input": np.array([2])}),
            "b": nir.Input({"input": np.array([2])}),
            "w": linear(),
            "o": nir.Output({"output": np.array([2])}),
        },
        *("a w", "b o", "w o"),
    )
    with pytest.raises(InputRefused, match="2 Input nodes"):
        flatten(graph(ends(2) | {"g": inner}, "input g", "g output"))
    _, edges = flatten(graph(ends(2) | {"g": inner}, "input g.b", "g output"))
    assert ("input", "g.b") in edges


@pytest.mark.parametrize(
    ("nodes", "edges", "message"),
    [
        ({"w": linear()}, ("input w", "input w", "w output"), "occurs twice"),
        ({"w": linear()}, ("input w", "w nowhere"), "does not exist"),
        ({"w": linear()}, ("input w", "w input", "w output"), "incoming edge"),
        ({"a": linear(), "b": linear()}, ("input a", "a b", "b a", "b output"), "has no delay"),
        ({"g": graph(ends(2), "input output"), "g.input": linear()}, ("input g", "g output"), "clash"),
    ],
)
def test_graphs_that_mean_nothing_are_refused(
    nodes: dict[str, Any], edges: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputRefused, match=message):
        topology(graph(ends(2) | nodes, *edges), EULER)


def test_recurrent_spikes_arrive_one_step_later() -> None:
    loop = graph(ends(2) | {"n": lif(), "r": linear()}, "input n", "n r", "r n", "n output")
    assert delayed(loop) == {("r", "n")}
    assert delayed(loop, Semantics(DT, recurrent_bias=True)) == {("n", "r")}
    assert delayed(graph(ends(2) | {"n": lif()}, "input n", "n n", "n output")) == {("n", "n")}
    assert delayed(graph(ends(2) | {"n": lif()}, "input n", "n output")) == set()


def test_all_populations_of_a_loop_are_treated_alike() -> None:
    nodes = {"a": lif(), "b": lif(), "w": linear(), "r": linear()}
    loop = graph(ends(2) | nodes, "input a", "a w", "w b", "b r", "r a", "b output")
    assert delayed(loop) == {("w", "b"), ("r", "a")}
    assert delayed(loop, Semantics(DT, recurrent_bias=True)) == {("a", "w"), ("b", "r")}


def test_a_delay_moves_only_behind_nodes_that_hear_nothing_of_this_step() -> None:
    nodes = {"n": lif(), "a": linear(), "b": linear(), "c": linear()}
    chained = graph(ends(2) | nodes, "input n", "n a", "a b", "b c", "c n", "b output")
    assert delayed(chained) == {("c", "n")}
    shared = graph(ends(2) | nodes, "input a", "a n", "n b", "b a", "n c", "c output")
    assert delayed(shared) == {("b", "a")}
    direct = graph(ends(2) | nodes, "input a", "a n", "n a", "n b", "b c", "c output")
    assert delayed(direct) == {("n", "a")}


def test_what_leaves_a_loop_is_not_delayed_even_through_a_nested_output() -> None:
    inner = graph(ends(2) | {"n": lif()}, "input n", "n output")
    around = graph(ends(2) | {"g": inner, "r": linear()}, "input g", "g r", "r g", "g output")
    assert delayed(around) == {("r", "g.n")}
    assert delayed(around, Semantics(DT, recurrent_bias=True)) == {("g.n", "r")}


@pytest.mark.parametrize(
    ("steps", "expected"), [([1, 2], set()), ([0, 1], {("n", "d")}), ([0.4, 1], {("n", "d")})]
)
def test_a_delay_of_a_step_needs_no_other(steps: list[float], expected: set[tuple[str, str]]) -> None:
    nodes = {"n": lif(), "d": nir.Delay(np.array(steps) * DT)}
    assert delayed(graph(ends(2) | nodes, "input n", "n d", "d n", "n output")) == expected


def test_semantics_name_the_delayed_edges() -> None:
    loop = graph(ends(2) | {"n": lif(), "r": linear()}, "input n", "n r", "r n", "n output")
    assert delayed(loop, Semantics(DT, delayed_edges=(("r", "n"),))) == {("r", "n")}
    with pytest.raises(InputRefused, match="does not exist"):
        topology(loop, Semantics(DT, delayed_edges=(("n", "s"),)))
    with pytest.raises(InputRefused, match="has no delay"):
        topology(loop, Semantics(DT, delayed_edges=(("input", "n"),)))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(1, 7), st.data())
def test_components_and_order_agree_with_reachability(n: int, data: st.DataObject) -> None:
    """Against the transitive closure by repeated squaring of the adjacency matrix."""
    edges = data.draw(st.sets(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1))))
    nodes = {f"n{i}": lif() for i in range(n)}
    found = topology(graph(ends(2) | nodes, *(f"n{a} n{b}" for a, b in edges)), EULER)
    reach = np.eye(n, dtype=bool)
    for a, b in edges:
        reach[a, b] = True
    for _ in range(n):
        reach = reach | (reach.astype(int) @ reach.astype(int) > 0)
    parts = [[int(name[1:]) for name in part if name[0] == "n"] for part in found.components]
    place = {node: i for i, part in enumerate(parts) for node in part}
    for a in range(n):
        for b in range(n):
            assert (place[a] == place[b]) == (reach[a, b] and reach[b, a])
            assert not reach[a, b] or place[a] <= place[b]


def test_a_deep_graph_is_no_trouble() -> None:
    names = ["input", *(f"w{i}" for i in range(3000)), "output"]
    nodes: dict[str, Any] = ends(1) | {name: linear(1) for name in names[1:-1]}
    order = topology(nir.NIRGraph(nodes, list(pairwise(names)), type_check=False), EULER).order
    assert list(order) == names


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (linear(3), "does not fit weight"),
        (lif(3), "does not fit parameters"),
        (nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])), "pooling over"),
        (nir.Conv1d(None, np.ones((1, 1, 2)), 1, 0, 1, 1, np.ones(1)), "does not fit weight"),
        (nir.Flatten({"input": np.array([2])}, 1, 1), "Flatten from 1"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_by_name(node: Any, message: str) -> None:
    of = topology(graph(ends(2) | {"odd": node}, "input odd", "odd output"), EULER)
    with pytest.raises(InputRefused, match=message) as caught:
        infer_shapes(of)
    assert "odd" in str(caught.value)


def test_shapes_of_a_sum_must_agree() -> None:
    nodes = {"a": nir.Linear(np.ones((1, 2))), "b": linear(2), "n": nir.Scale(np.ones(1))}
    of = topology(graph(ends(2) | nodes, "input a", "input b", "a n", "b n"), EULER)
    with pytest.raises(InputRefused, match="different shapes"):
        infer_shapes(of)


def test_non_square_kernels_and_groups_get_their_shape() -> None:
    """The formula of torch's documentation, by hand; nir 1.0.8 has [4, 3, 3] for this one."""
    conv = nir.Conv2d(None, np.ones((4, 1, 3, 1)), (2, 1), (1, 0), (1, 2), 2, np.ones(4))
    nodes = {
        "input": nir.Input({"input": np.array([2, 5, 6])}),
        "c": conv,
        "output": nir.Output({"output": np.array([4, 3, 6])}),
    }
    shapes = infer_shapes(topology(graph(nodes, "input c", "c output"), EULER))
    assert shapes["c"] == (4, 3, 6)


@pytest.mark.parametrize(("padding", "stride"), [("same", 2), (-1, 1), ("full", 1)])
def test_paddings_that_torch_refuses_too(padding: Any, stride: int) -> None:
    node = nir.Conv1d(4, np.ones((1, 1, 2)), stride, 0, 1, 1, np.ones(1))
    node.padding = padding
    with pytest.raises(InputRefused, match="Padding"):
        window(node)
