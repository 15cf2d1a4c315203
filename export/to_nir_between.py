"""What a network does between its layers: sums, factors, reshaping, pooling, the mean over time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import nir
import numpy as np
from torch import Tensor, nn

from rsc.errors import UnsupportedNode
from rsc.export.to_nir_graph import Value
from rsc.export.to_nir_layers import CARRIED, REMEDIES, adaptive_pool, array, flatten, pool
from rsc.export.to_nir_values import Values

Arguments = tuple[Any, ...]
Options = Mapping[str, Any]


def follow(values: Values, name: str, args: Arguments, kwargs: Options, out: Any) -> None:
    """Note what a torch function made of values.

    Raises:
        UnsupportedNode: it has no NIR form.
    """
    rule = RULES.get(name)
    if rule is None or not isinstance(out, Tensor) or kwargs.get("out") is not None:
        raise UnsupportedNode(
            f"torch's '{name}' cannot be exported{values.place}.",
            f"NIR carries {CARRIED}.",
            REMEDIES.get(name, "Use one of these."),
        )
    for x in args:
        if isinstance(x, Tensor) and values.of(x) is not None:
            values.usable(x, f"The input of '{name}'{values.place}")
    rule(values, name, args, kwargs, out)


def flat_value(values: Values, value: Value, path: str) -> Value:
    """A value with the axes of a sample joined."""
    value.viewed = True
    kind, node = flatten(value.shape)
    return values.graph.add(kind, path, node, value, (math.prod(value.shape),))


def _add(values: Values, name: str, args: Arguments, kwargs: Options, out: Tensor) -> None:
    """Sums and differences, in place or not."""
    alpha = kwargs.get("alpha", 1)
    factors = (-alpha, 1) if "rsub" in name else (1, -alpha if "sub" in name else alpha)
    first, second = args[0], args[1] if len(args) > 1 else kwargs["other"]
    terms = [(x, f) for x, f in zip((first, second), factors, strict=True) if not _is_zero(x)]
    if not all(isinstance(x, Tensor) and values.of(x) and x.shape == out.shape for x, _ in terms):
        raise UnsupportedNode(
            f"A constant, or values of different shapes, are added{values.place}.",
            "NIR adds what nodes give, of equal shape.",
            "Use the bias of a layer for constants, and give branches one shape.",
        )
    found = [values.usable(x, "A term") for x, _ in terms]
    signs = [f for _, f in terms]
    signed = [
        v if f == 1 else _scaled(values, v, np.array(float(f))) for v, f in zip(found, signs, strict=True)
    ]
    total = tuple(source for value in signed for source in value.sources)
    if out is not first:
        values.note(out, Value(total, found[0].shape))
    elif found[0].viewed:
        raise UnsupportedNode(
            f"Values are changed in place{values.place} after they were reshaped.",
            "Whether their other form changes with them depends on memory.",
            "Write a = a + b.",
        )
    else:
        found[0].sources = total


def _multiply(values: Values, name: str, args: Arguments, kwargs: Options, out: Tensor) -> None:
    """A value times, or divided by, something constant."""
    first, second = args[0], args[1] if len(args) > 1 else kwargs["other"]
    x, factor = (first, second) if values.of(first) is not None else (second, first)
    value, leading = values.usable(x, "A factor"), values.layout(x)
    numbers = _constant(values, factor)
    if numbers is None or kwargs.get("rounding_mode") or ("div" in name and x is not first):
        raise UnsupportedNode(
            f"Values are multiplied or divided by what is not constant{values.place}.",
            "NIR has constant factors: numbers, parameters and buffers.",
            "Use constant factors.",
        )
    fits = numbers.ndim <= len(value.shape) or set(numbers.shape[: -len(value.shape)]) == {1}
    if tuple(out.shape) != (*leading, *value.shape) or not fits:
        raise UnsupportedNode(
            f"A factor of shape {numbers.shape} meets values of shape {value.shape}{values.place}.",
            "NIR scales the elements of a sample one by one, the same at every step.",
            "Give factors that broadcast to one sample.",
        )
    numbers = numbers.reshape(numbers.shape[max(0, numbers.ndim - len(value.shape)) :])
    values.note(out, _scaled(values, value, 1.0 / numbers if "div" in name else numbers))


def _constant(values: Values, factor: Any) -> np.ndarray | None:
    """The numbers of a factor, float64; None if they are not known."""
    if isinstance(factor, int | float):
        return np.array(float(factor))
    original = values.originals.get(id(factor))
    return None if original is None else array(original).astype(np.float64)


def _negate(values: Values, name: str, args: Arguments, kwargs: Options, out: Tensor) -> None:
    values.note(out, _scaled(values, values.usable(args[0], "A term"), np.array(-1.0)))


def _scaled(values: Values, value: Value, factor: np.ndarray) -> Value:
    node = nir.Scale(np.broadcast_to(factor, value.shape).copy())
    return values.graph.add("scale", values.within("scale"), node, value, value.shape)


def _reshape(values: Values, name: str, args: Arguments, kwargs: Options, out: Tensor) -> None:
    """Time and batch folded or not, the sample as it is or flat."""
    x = args[0]
    value = values.usable(x, f"The input of '{name}'")
    values.layout(x)
    for leading in values.leadings:
        if tuple(out.shape) == (*leading, *value.shape):
            value.viewed = True
            values.note(out, value)
            return
    for leading in values.leadings:
        if tuple(out.shape) == (*leading, math.prod(value.shape)):
            values.note(out, flat_value(values, value, values.within("flatten")))
            return
    raise UnsupportedNode(
        f"'{name}' makes {tuple(out.shape)} of {tuple(x.shape)}{values.place}.",
        "NIR can join the axes of a sample, and nothing else.",
        "Keep time and batch in front, and flatten the rest at most.",
    )


def _clone(values: Values, name: str, args: Arguments, kwargs: Options, out: Tensor) -> None:
    value = values.usable(args[0], f"The input of '{name}'")
    values.note(out, Value(value.sources, value.shape))


def _alias(values: Values, name: str, args: Arguments, kwargs: Options, out: Tensor) -> None:
    value = values.usable(args[0], f"The input of '{name}'")
    value.viewed = True
    values.note(out, value)


def _dropout(values: Values, name: str, args: Arguments, kwargs: Options, out: Tensor) -> None:
    training = args[2] if len(args) > 2 else kwargs.get("training", True)
    if training:
        raise UnsupportedNode(
            f"'{name}' drops values at evaluation, too{values.place}.",
            "A program draws nothing at random.",
            "Use nn.Dropout, or training=self.training.",
        )
    _clone(values, name, args, kwargs, out)


def _constant_like(values: Values, name: str, args: Arguments, kwargs: Options, out: Tensor) -> None:
    """A tensor that only has the shape of a value: nothing flows in it."""


def _pool(values: Values, name: str, args: Arguments, kwargs: Options, out: Tensor) -> None:
    convert, layer = (pool, nn.AvgPool2d) if name == "avg_pool2d" else (adaptive_pool, nn.AdaptiveAvgPool2d)
    options = {key: v for key, v in kwargs.items() if key != "input"}
    x = args[0] if args else kwargs["input"]
    value, leading = values.usable(x, f"The input of '{name}'"), values.layout(x)
    kind, node = convert(layer(*args[1:], **options), value.shape)  # type: ignore[arg-type]
    shape = tuple(out.shape[len(leading) :])
    values.note(out, values.graph.add(kind, values.within(kind), node, value, shape))


def _reduce(values: Values, name: str, args: Arguments, kwargs: Options, out: Tensor) -> None:
    """Mean or sum over time, at the end of a network, or over the sites of a sample."""
    x = args[0]
    value, leading = values.usable(x, f"The input of '{name}'"), values.layout(x)
    given = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis"))
    dims = (
        set()
        if given is None
        else {d % x.ndim for d in (given if isinstance(given, tuple | list) else [given])}
    )
    keep = bool(args[2] if len(args) > 2 else kwargs.get("keepdim", False))
    if dims == {0} and len(leading) == 2 and not keep:
        values.note(out, Value(value.sources, value.shape, reduced=name))
        return
    if len(value.shape) != 3 or dims != {x.ndim - 2, x.ndim - 1}:
        raise UnsupportedNode(
            f"'{name}' goes over dims {given} of {tuple(x.shape)}{values.place}.",
            "NIR has pooling over both sides of an image, and programs reduce their outputs over time.",
            "Use one of these.",
        )
    kernel = np.array(value.shape[1:])
    kind = nir.AvgPool2d if name == "mean" else nir.SumPool2d
    node = kind(kernel, kernel.copy(), np.zeros(2, kernel.dtype))
    pooled = values.graph.add("pool", values.within("pool"), node, value, (value.shape[0], 1, 1))
    values.note(out, pooled if keep else flat_value(values, pooled, values.within("flatten")))


def _last(values: Values, name: str, args: Arguments, kwargs: Options, out: Tensor) -> None:
    """The value of the last step, at the end of a network."""
    value = values.usable(args[0], "What is indexed")
    if len(values.layout(args[0])) != 2 or not isinstance(args[1], int) or args[1] != -1:
        raise UnsupportedNode(
            f"Values are indexed{values.place}.", "NIR cannot take parts of them.", REMEDIES["__getitem__"]
        )
    values.note(out, Value(value.sources, value.shape, reduced="last"))


def _is_zero(x: Any) -> bool:
    return isinstance(x, int | float) and x == 0


# By the name of a torch function or method; what is missing has no NIR form.
RULES: dict[str, Callable[[Values, str, Arguments, Options, Tensor], None]] = {
    **dict.fromkeys(("add", "__add__", "__radd__", "add_", "__iadd__"), _add),
    **dict.fromkeys(("sub", "__sub__", "subtract", "rsub", "__rsub__", "sub_", "__isub__"), _add),
    **dict.fromkeys(("mul", "__mul__", "__rmul__", "multiply"), _multiply),
    **dict.fromkeys(("div", "__truediv__", "true_divide", "divide"), _multiply),
    **dict.fromkeys(("neg", "__neg__", "negative"), _negate),
    **dict.fromkeys(("flatten", "unflatten", "reshape", "view", "view_as", "reshape_as"), _reshape),
    **dict.fromkeys(("squeeze", "unsqueeze"), _reshape),
    **dict.fromkeys(("contiguous", "detach", "to", "float", "double", "type"), _alias),
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d", "alpha_dropout"), _dropout),
    **dict.fromkeys(("avg_pool2d", "adaptive_avg_pool2d"), _pool),
    **dict.fromkeys(("mean", "sum"), _reduce),
    **dict.fromkeys(("zeros_like", "ones_like", "empty_like", "new_zeros", "new_ones"), _constant_like),
    "clone": _clone,
    "__getitem__": _last,
}
