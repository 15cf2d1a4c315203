"""Layered programs for the tests of the Loihi and Lava targets; input "x", the last layer is the output.

Those of `NETWORKS` are made by `network(name, rng, arithmetic)`, each about one ability of the form.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import lava_listing
import numpy as np

from rsc.layered import CONSTANT, Connection, Layer, LayeredProgram, Source


def grid(rng: np.random.Generator, *shape: int, low: int = -256, high: int = 254) -> np.ndarray:
    """Random weights on Lava's mixed-sign grid."""
    return 2 * rng.integers(low // 2, high // 2 + 1, shape).astype(np.int32)


def lif(name: str, shape: tuple[int, ...], *connections: Connection, **changes: Any) -> Layer:
    """A layer; without changes it forgets u, keeps v for about 20 steps and fires above 100."""
    fields: dict[str, Any] = {"du": 4095, "dv": 200, "vth": 100, "bias_mant": np.zeros(shape, np.int32)}
    return Layer(name, shape, connections, **(fields | changes))


def program(
    *layers: Layer, shape: tuple[int, ...], arithmetic: Any = "integer", input_max: int = 1
) -> LayeredProgram:
    """One input "x", the last layer at the Output node "output"."""
    outputs = (("output", (layers[-1].name,)),)
    return LayeredProgram(arithmetic, layers, (Source("x", shape, 1.0, input_max),), outputs)


def fit(layer: Layer) -> Layer:
    """The layer with the shape its connection really delivers."""
    c = layer.connections[0]
    out = lava_listing.current(c, np.zeros(c.source_shape), layer.shape, True).shape
    return dataclasses.replace(layer, shape=out, bias_mant=np.zeros(out, np.int32))


def frames(
    layered: LayeredProgram, rng: np.random.Generator, steps: int, samples: int, rate: float = 0.5
) -> dict[str, np.ndarray]:
    """Frames [steps, samples, ...] float32: spikes, or integers; a tenth exceeds the largest payload."""
    made = {}
    for source in layered.inputs:
        shape = (steps, samples, *source.shape)
        values = np.ones(shape)
        if source.maximum > 1 or layered.arithmetic == "float":
            most = max(1, int(1.1 * source.maximum))
            values = rng.integers(-most, most + 1, shape)
        made[source.name] = (values * (rng.random(shape) < rate) / source.scale).astype(np.float32)
    return made


def chain(rng: np.random.Generator, arithmetic: Any = "integer") -> LayeredProgram:
    """Input (2, 7, 6) -> conv -> pooled conv -> dense -> accumulator; biases strong enough to fire alone."""
    kit = Kit(rng, arithmetic)
    two = (2, 2)
    readout = Connection("c", "dense", kit.weight(3, 5), (5,))
    return program(
        kit.lif("a", (3, 7, 6), Connection("x", "conv", kit.weight(3, 2, 3, 3), (2, 7, 6), padding=(1, 1))),
        kit.lif("b", (4, 2, 2), Connection("a", "conv", kit.weight(4, 3, 2, 2), (3, 7, 6), pool=(two, two))),
        kit.lif("c", (5,), Connection("b", "dense", kit.weight(5, 16), (4, 2, 2))),
        kit.sum("r", (3,), readout),
        shape=(2, 7, 6),
        arithmetic=arithmetic,
    )


def dense_chain(rng: np.random.Generator) -> LayeredProgram:
    """Input (6,) -> dense -> accumulator that overflows; quick to start, as Lava's Conv is not imported."""
    bias: dict[str, Any] = {"bias_mant": rng.integers(-40, 90, 5), "bias_exp": 6}
    first = lif("a", (5,), Connection("x", "dense", grid(rng, 5, 6), (6,)), **bias)
    c = Connection("a", "dense", np.full((2, 5), 254, np.int32), (5,), 8)
    end = lif("r", (2,), c, du=4095, dv=0, vth=131071, readout="sum")
    return program(first, end, shape=(6,))


def tiny() -> LayeredProgram:
    """One neuron that one synapse feeds."""
    c = Connection("x", "dense", np.full((1, 1), 10, np.int32), (1,))
    return program(lif("lif", (1,), c), shape=(1,))


@dataclasses.dataclass(frozen=True)
class Kit:
    """Random weights and neurons of one arithmetic, alike in the rates that they give."""

    rng: np.random.Generator
    arithmetic: Any = "integer"

    @property
    def integer(self) -> bool:
        return self.arithmetic == "integer"

    def weight(self, *shape: int) -> np.ndarray:
        """Normal weights; in integers 100 is one threshold."""
        if self.integer:
            return grid(self.rng, *shape, low=-120, high=120)
        return self.rng.normal(0, 0.4, shape)

    def dense(self, source: str, outputs: int, inputs: int, delay: Any = 0, **options: Any) -> Connection:
        """Synapses from a flat source; delay is k, a number or an array [out, in]."""
        k = np.asarray(delay, np.int32)
        return Connection(source, "dense", self.weight(outputs, inputs), (inputs,), delay=k, **options)

    def constant(self, outputs: int, delay: int) -> Connection:
        """Synapses from the source that is 1 at every step."""
        return self.dense(CONSTANT, outputs, 1, delay)

    def lif(self, name: str, shape: tuple[int, ...], *connections: Connection, **changes: Any) -> Layer:
        """Neurons with a bias that is strong enough to fire alone; changes in the units of the arithmetic."""
        if self.integer:
            bias = {"bias_mant": self.rng.integers(-40, 90, shape).astype(np.int32), "bias_exp": 6}
            neuron = {"du": 3000, "dv": 300, "vth": 90} | bias
        else:
            neuron = {"du": 0.7, "dv": 0.1, "vth": 0.9, "bias_mant": self.rng.normal(0.3, 0.3, shape)}
        return lif(name, shape, *connections, **(neuron | changes))

    def each(self, shape: tuple[int, ...], low: float, high: float, unit: int) -> np.ndarray:
        """A parameter of its own for each neuron, uniform in [low, high] of `unit` in integers."""
        values = self.rng.uniform(low, high, shape)
        return np.rint(values * unit).astype(np.int32) if self.integer else values

    def sum(self, name: str, shape: tuple[int, ...], *connections: Connection) -> Layer:
        """An accumulator."""
        end = {"du": 4095, "dv": 0, "vth": 131071} if self.integer else {"du": 1.0, "dv": 0.0, "vth": 1e30}
        scale = 12.5 if self.integer else 1.0
        return self.lif(name, shape, *connections, scale=scale, readout="sum", **end)

    def state(self, name: str, shape: tuple[int, ...], *connections: Connection) -> Layer:
        """A leaky integrator that starts above its offset."""
        end: dict[str, Any] = {"du": 2000, "dv": 500, "vth": 131071, "scale": 50.0, "v_init": 640}
        if not self.integer:
            end = {"du": 0.5, "dv": 0.125, "vth": 1e30, "v_init": 0.2}
        offset = self.rng.normal(0, 1, shape)
        return self.lif(name, shape, *connections, readout="state", offset=offset, **end)


def _per_neuron(kit: Kit) -> LayeredProgram:
    """du, dv, vth and v_init of each neuron, on a flat layer and on an image."""
    each = {
        "a": {"du": kit.each((7,), 0, 0.99, 4096), "dv": kit.each((7,), 0, 1, 4096)},
        "b": {"dv": kit.each((2, 3, 4), 0, 1, 4096), "v_init": kit.each((2, 3, 4), -3, 0.9, 64 * 90)},
    }
    conv = Connection("y", "conv", kit.weight(2, 1, 2, 2), (1, 4, 5))
    return program(
        kit.lif("a", (7,), kit.dense("x", 7, 5), vth=kit.each((7,), 0.2, 2, 90), **each["a"]),
        kit.lif("y", (1, 4, 5), kit.dense("a", 20, 7)),
        kit.lif("b", (2, 3, 4), conv, vth=kit.each((2, 3, 4), 0.2, 2, 90), **each["b"]),
        shape=(5,),
        arithmetic=kit.arithmetic,
    )


def _skip(kit: Kit) -> LayeredProgram:
    """The input and the first layer skip over one and two layers."""
    return program(
        kit.lif("a", (6,), kit.dense("x", 6, 5)),
        kit.lif("b", (4,), kit.dense("a", 4, 6)),
        kit.lif("c", (5,), kit.dense("b", 5, 4), kit.dense("a", 5, 6), kit.dense("x", 5, 5)),
        kit.sum("r", (3,), kit.dense("c", 3, 5), kit.dense("a", 3, 6)),
        shape=(5,),
        arithmetic=kit.arithmetic,
    )


def _self_recurrent(kit: Kit) -> LayeredProgram:
    """A layer that hears itself one step later, between two that do not."""
    return program(
        kit.lif("a", (6,), kit.dense("x", 6, 5)),
        kit.lif("b", (7,), kit.dense("a", 7, 6), kit.dense("b", 7, 7, 1)),
        kit.sum("r", (3,), kit.dense("b", 3, 7)),
        shape=(5,),
        arithmetic=kit.arithmetic,
    )


def _two_in_a_loop(kit: Kit) -> LayeredProgram:
    """a -> b within the step, b -> a two steps later, both hear the input, b hears itself."""
    return program(
        kit.lif("a", (6,), kit.dense("x", 6, 5), kit.dense("b", 6, 4, 2)),
        kit.lif("b", (4,), kit.dense("a", 4, 6), kit.dense("x", 4, 5), kit.dense("b", 4, 4, 1)),
        kit.sum("r", (3,), kit.dense("b", 3, 4), kit.dense("a", 3, 6)),
        shape=(5,),
        arithmetic=kit.arithmetic,
    )


def _listed_backwards(kit: Kit) -> LayeredProgram:
    """A ring of three, each a step late, listed against the direction of its synapses."""
    return program(
        kit.lif("c", (4,), kit.dense("b", 4, 5, 1)),
        kit.lif("b", (5,), kit.dense("a", 5, 6, 1)),
        kit.lif("a", (6,), kit.dense("c", 6, 4, 1), kit.dense("x", 6, 5)),
        shape=(5,),
        arithmetic=kit.arithmetic,
    )


def _delays_per_synapse(kit: Kit) -> LayeredProgram:
    """A delay for each synapse, also with a negative weight exponent, from flat and from pooled sources."""
    rng = kit.rng
    first = kit.dense("x", 16, 5, rng.integers(0, 6, (16, 5)))
    exponent = -2 if kit.integer else 0
    second = kit.dense("a", 4, 16, rng.integers(1, 4, (4, 16)), weight_exp=exponent)
    pooled = kit.dense("a", 4, 4, rng.integers(0, 3, (4, 4)), pool=((2, 2), (2, 2)))
    return program(
        kit.lif("a", (1, 4, 4), first),
        kit.lif("b", (4,), second, dataclasses.replace(pooled, source_shape=(1, 4, 4))),
        kit.sum("r", (3,), kit.dense("b", 3, 4)),
        shape=(5,),
        arithmetic=kit.arithmetic,
    )


def _delayed_convolution(kit: Kit) -> LayeredProgram:
    """Convolutions of delay 2 from an image and of delay 1 back into their own layer."""
    into = Connection("x", "conv", kit.weight(3, 2, 3, 3), (2, 4, 5), padding=(1, 1))
    own = Connection("a", "conv", kit.weight(3, 1, 3, 1), (3, 4, 5), padding=(1, 0), groups=3)
    late = [dataclasses.replace(c, delay=np.asarray(k, np.int32)) for c, k in ((into, 2), (own, 1))]
    end = Connection("a", "conv", kit.weight(2, 3, 2, 2), (3, 4, 5), stride=(2, 1))
    return program(
        kit.lif("a", (3, 4, 5), *late),
        kit.sum("r", (2, 2, 4), end),
        shape=(2, 4, 5),
        arithmetic=kit.arithmetic,
    )


def _constant(kit: Kit) -> LayeredProgram:
    """The constant source with k = 0 and 1, at the levels 1 and 2."""
    return program(
        kit.lif("a", (6,), kit.dense("x", 6, 5), kit.constant(6, 1)),
        kit.lif("b", (4,), kit.dense("a", 4, 6), kit.constant(4, 0), kit.constant(4, 1)),
        kit.lif("c", (2,), kit.constant(2, 0)),
        kit.sum("r", (3,), kit.dense("b", 3, 4, 1), kit.dense("c", 3, 2), kit.constant(3, 2)),
        shape=(5,),
        arithmetic=kit.arithmetic,
    )


def _two_ends(kit: Kit) -> LayeredProgram:
    """Inputs of spikes and of payloads; one output adds an accumulator and spikes, the other is one layer."""
    graded = kit.dense("y", 4, 3, graded=True)
    layers = (
        kit.lif("a", (4,), kit.dense("x", 4, 5), graded),
        kit.lif("b", (3,), kit.dense("a", 3, 4), kit.dense("y", 3, 3, 1)),
        kit.sum("r", (3,), kit.dense("a", 3, 4)),
    )
    inputs = (Source("x", (5,), 1.0, 1), Source("y", (3,), 4.0, 9))
    outputs = (("first", ("r", "b")), ("second", ("a",)))
    return LayeredProgram(kit.arithmetic, layers, inputs, outputs)


def _cuba(kit: Kit) -> LayeredProgram:
    """Synaptic currents that last, of one constant and of one for each neuron."""
    du = [kit.each((), 0.1, 0.1, 4096).item(), kit.each((5,), 0, 0.9, 4096)]
    return program(
        kit.lif("a", (6,), kit.dense("x", 6, 5), du=du[0]),
        kit.lif("b", (5,), kit.dense("a", 5, 6), kit.dense("b", 5, 5, 1), du=du[1]),
        kit.sum("r", (3,), kit.dense("b", 3, 5)),
        shape=(5,),
        arithmetic=kit.arithmetic,
    )


def _state(kit: Kit) -> LayeredProgram:
    """A leaky readout that starts from a value of its own."""
    return program(
        kit.lif("a", (6,), kit.dense("x", 6, 5)),
        kit.state("r", (3,), kit.dense("a", 3, 6)),
        shape=(5,),
        arithmetic=kit.arithmetic,
    )


NETWORKS: dict[str, Callable[[Kit], LayeredProgram]] = {
    "chain": lambda kit: chain(kit.rng, kit.arithmetic),
    "parameters per neuron": _per_neuron,
    "skip connections": _skip,
    "self-recurrent": _self_recurrent,
    "two populations in a loop": _two_in_a_loop,
    "ring listed backwards": _listed_backwards,
    "delays per synapse": _delays_per_synapse,
    "delayed convolution": _delayed_convolution,
    "constant source": _constant,
    "two inputs and outputs": _two_ends,
    "synaptic currents": _cuba,
    "leaky readout": _state,
}


def network(name: str, rng: np.random.Generator, arithmetic: Any = "integer") -> LayeredProgram:
    """One of `NETWORKS`."""
    return NETWORKS[name](Kit(rng, arithmetic))


_SHAPES = ((1,), (3,), (8,), (2, 2, 2), (1, 2, 2), (2, 1, 3), (1, 1, 3))


def random_program(rng: np.random.Generator, arithmetic: Any = "integer") -> LayeredProgram:
    """2 to 5 layers of at most 8 neurons with everything the form allows, delays 0 to 5.

    Either all synapses between layers are late, or those that lead back by more steps than the way forth
    has layers; so the levels exist. One in eight has weights that let u wrap and v saturate.
    """
    kit, late, wild = Kit(rng, arithmetic), bool(rng.random() < 0.3), bool(rng.random() < 0.125)
    inputs = tuple(
        Source(name, _SHAPES[rng.integers(len(_SHAPES))], float(rng.integers(1, 5)), int(most))
        for name, most in zip("xy", rng.choice([1, 3, 200], 2)[: rng.integers(1, 3)], strict=False)
    )
    names = [f"l{i}" for i in range(rng.integers(2, 6))]
    shapes = {name: _SHAPES[rng.integers(len(_SHAPES))] for name in names}
    shapes |= {source.name: source.shape for source in inputs}
    graded = {source.name: source.maximum > 1 or not kit.integer for source in inputs}
    layers = []
    for i, name in enumerate(names):
        others = [*graded, *names[:i], *rng.choice(names[i:], int(rng.random() < 0.4)).tolist()]
        feeding = list(dict.fromkeys(rng.choice(others, rng.integers(1, 4)).tolist()))
        made = []
        for source in feeding:
            j = names.index(source) if source in names else -1
            least = 0 if j < 0 else int(late) if late or j < i else j - i + 1
            options = {"graded": graded.get(source, False), "least": least, "wild": wild}
            made.append(_random_connection(kit, source, shapes[source], shapes[name], **options))
        if rng.random() < 0.3:
            made.append(kit.constant(int(np.prod(shapes[name])), int(rng.integers(0, 4))))
        layers.append(_random_layer(kit, name, shapes[name], made, last=i == len(names) - 1))
    first = [layers[-1].name, *[n for n in names[:-1] if shapes[n] == layers[-1].shape][:1]]
    outputs = (("output", tuple(first)), ("second", (names[0],)))[: rng.integers(1, 3)]
    return LayeredProgram(arithmetic, tuple(layers), inputs, outputs)


def _random_connection(
    kit: Kit,
    source: str,
    into: tuple[int, ...],
    shape: tuple[int, ...],
    *,
    graded: bool,
    least: int,
    wild: bool,
) -> Connection:
    """Synapses of delays from `least` to 5; a convolution where the shapes allow one."""
    rng = kit.rng
    delay = np.asarray(rng.integers(least, 6) if rng.random() < 0.4 else least, np.int32)
    if len(into) == len(shape) == 3 and into[1:] == shape[1:] and rng.random() < 0.7:
        one = into[0] == shape[0] and rng.random() < 0.5
        weight = kit.weight(shape[0], 1 if one else into[0], 3, 1)
        if wild and kit.integer:
            weight = weight * (1 << 14)
        groups = into[0] if one else 1
        return Connection(
            source, "conv", weight, into, padding=(1, 0), groups=groups, graded=graded, delay=delay
        )
    exponent = int(rng.choice([7, 14] if wild else [0, 0, 1, -2])) if kit.integer else 0
    pool = ((1, 2), (1, 1)) if len(into) == 3 and into[2] > 1 and rng.random() < 0.5 else None
    inputs = int(np.prod(into)) // into[-1] * (into[-1] - 1) if pool else int(np.prod(into))
    outputs = int(np.prod(shape))
    if rng.random() < 0.3:
        delay = rng.integers(least, 6, (outputs, inputs)).astype(np.int32)
    weight = kit.weight(outputs, inputs)
    return Connection(source, "dense", weight, into, exponent, pool, graded=graded, delay=delay)


def _random_layer(
    kit: Kit, name: str, shape: tuple[int, ...], connections: list[Connection], *, last: bool
) -> Layer:
    """Neurons with parameters in common or of their own; the last layer may be a readout."""
    rng = kit.rng
    if last and rng.random() < 0.5:
        return (kit.sum if rng.random() < 0.5 else kit.state)(name, shape, *connections)
    unit = 4095 if kit.integer else 1
    changes: dict[str, Any] = {}
    for key, low, high, scale in (("du", 0, 1, unit), ("dv", 0, 1, unit), ("vth", 0.1, 3, 90)):
        own = kit.each(shape if rng.random() < 0.3 else (), low, high, scale)
        changes |= {key: own if own.ndim else own.item()} if rng.random() < 0.6 else {}
    if rng.random() < 0.3:
        changes["v_init"] = kit.each(shape if rng.random() < 0.5 else (), -2, 2, 64 * 90)
    if kit.integer and rng.random() < 0.3:
        mantissa = rng.integers(-4095, 4096, shape).astype(np.int32)
        changes |= {"bias_mant": mantissa, "bias_exp": int(rng.integers(0, 8))}
    return kit.lif(name, shape, *connections, **({"du": 4095 if kit.integer else 1.0} | changes))
