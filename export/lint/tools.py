"""How other tools import NIR: the facts that the rules compare a graph with.

Found by importing one small graph per primitive and comparing 60 steps with forward Euler ("run"), or by
reading the importer ("read"). Versions: Norse 1.1.0, snnTorch 1.0.0, Sinabs 2.0.3, SpikingJelly 2.0.0,
Rockpool 3.1.0, Spyx 1.0.0, and the importers for Nengo and lava-dl that come with the NIR paper
(repository neuromorphs/NIR, folder paper, January 2026). All of them read NIR through nir 1.0.8.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from rsc.discretise import SPECIAL
from rsc.presets import PRESETS

Exact = Literal["one", "step"]


class Gain(msgspec.Struct, frozen=True):
    """For which values of r (or w_in) a tool does what NIR says.

    "one": the value is 1. "step": value * dt/tau is 1 (for IF: r dt is 1). None: for all values.

    Fields:
        accepts: other values are refused.
        exact: other values are accepted and change the result; an empty tuple means every value does.
        why: what the tool does with the value.
    """

    accepts: tuple[Exact, ...] | None = None
    exact: tuple[Exact, ...] | None = None
    why: str = ""


class TimeStep(msgspec.Struct, frozen=True):
    """Where a tool takes dt from: an argument with a default, a constant, or a guess.

    Fields:
        value: default or constant, in seconds; None for a guess.
        fix: how to tell it.
    """

    source: Literal["argument", "constant", "guess"]
    value: float | None
    fix: str


class Remark(msgspec.Struct, frozen=True):
    """What happens, and how bad it is."""

    severity: Literal["error", "warning"]
    why: str


class Tool(msgspec.Struct, frozen=True):
    """What one importer does.

    Fields:
        name: as given to `--for`; title: with the version.
        basis: "run" or "read", see above.
        nodes: primitives it imports; the others are refused. `refusals`: reasons where they are special.
        step: its time step.
        reset: to v_reset ("value"), to 0 ("zero"), or by subtraction; `reset_note`: what else differs.
        comparison, decay: how it fires and leaks.
        gains: neuron kind -> r; "w_in" -> w_in of CubaLIF. A kind that is missing is exact.
        preset: of `rsc.presets.PRESETS`, for the rules that have no field here; "" for the defaults.
        leaks: neuron kind -> what a v_leak other than 0 does; a kind that is missing is exact.
        uniform: fields that must have one value per layer, others are refused.
        first_only: fields of which only the first element is used.
        self_edges: a neuron that feeds itself is read as it is meant.
        pair_cycle, other_cycle: what happens to a neuron with one recurrent matrix, and to other cycles.
        recurrent_bias: whether the bias of a recurrent Affine is missing at the first step, or altogether.
        branches: what happens where several edges end in a node.
        ports: what happens to several inputs or outputs.
        pool_padding: what happens to the padding of SumPool2d, "" if nothing.
        flattens_batch: Flatten counts the batch as dimension 0.
        zero_bias: kinds whose bias must be 0.
        float_weights: integer weights fail.
        skips: nodes without an import pass their input on, without a word.
        one_gain: kinds that are wrong where r dt/tau varies within the layer.
        flat_only: neuron kinds whose parameters must have one axis.
        input_name: the name that the Input node must have, or "".
    """

    name: str
    title: str
    basis: Literal["run", "read"]
    nodes: frozenset[str]
    step: TimeStep
    reset: Literal["value", "zero", "subtract"]
    comparison: Literal[">", ">="]
    decay: Literal["euler", "exponential"]
    preset: str = ""
    refusals: dict[str, str] = {}
    reset_note: str = ""
    gains: dict[str, Gain] = {}
    leaks: dict[str, Remark] = {}
    uniform: dict[str, tuple[str, ...]] = {}
    first_only: dict[str, tuple[str, ...]] = {}
    self_edges: bool = True
    pair_cycle: Remark | None = None
    other_cycle: Remark | None = None
    recurrent_bias: Literal["kept", "late", "dropped"] = "kept"
    branches: Remark | None = None
    ports: Remark | None = None
    pool_padding: str = ""
    flattens_batch: bool = False
    zero_bias: tuple[str, ...] = ()
    float_weights: bool = False
    skips: bool = False
    one_gain: tuple[str, ...] = ()
    flat_only: tuple[str, ...] = ()
    input_name: str = ""

    @property
    def habits(self) -> dict[str, object]:
        """Field of `Semantics` -> what the tool does, for the fields in `rsc.discretise.SPECIAL`."""
        own = PRESETS[self.preset].rules if self.preset else {}
        return {field: own.get(field, default) for field, default in SPECIAL.items()}


_PLAIN = frozenset({"Input", "Output", "Affine", "Linear"})
_GAIN_ONE_PER_STEP = "It adds the input itself to v in each step (r dt/tau taken as 1)."
_WRONG_BRANCH = Remark(
    "warning", "Its graph executor may return the output of the wrong node where branches join."
)
_NODE_ORDER = Remark(
    "warning",
    "It delays whichever node of the cycle comes first, and writing a file changes the order of nodes.",
)
_MODERN_PORTS = Remark("error", "nirtorch 2.6 raises on a second Input and never returns on a second Output.")
_ONE_PORT = Remark("error", "It feeds one input and returns one output.")

NORSE = Tool(
    name="norse-file",
    title="Norse 1.1.0 reading the file",
    basis="run",
    preset="norse",
    nodes=_PLAIN | {"Conv2d", "SumPool2d", "Flatten", "IF", "LIF", "CubaLIF"},
    step=TimeStep("argument", 1e-3, "Call norse.torch.from_nir(graph, dt={dt:g})."),
    reset="zero",
    comparison=">",
    decay="euler",
    gains={
        "LIF": Gain(exact=("one",), why="Norse takes r as 1."),
        "IF": Gain(exact=("step",), why="Norse adds the input itself to v, without r and dt."),
    },
    leaks={
        "CubaLIF": Remark("warning", "Norse lets the synaptic current leak to v_leak too."),
    },
    other_cycle=Remark("warning", "It delays the edge that closes the cycle in its own order of execution."),
    recurrent_bias="late",
    branches=_WRONG_BRANCH,
    ports=_ONE_PORT,
    pool_padding="Norse ignores it.",
    flattens_batch=True,
    skips=True,
)

SNNTORCH = Tool(
    name="snntorch",
    title="snnTorch 1.0.0",
    basis="run",
    preset="snntorch",
    nodes=_PLAIN | {"Conv1d", "Conv2d", "SumPool2d", "AvgPool2d", "Flatten", "LIF", "CubaLIF"},
    refusals={
        "IF": "snnTorch makes a leaky neuron (beta 0.9) of it, whose output the next layer cannot take."
    },
    step=TimeStep("constant", 1e-4, "Scale tau to {ratio:g} times its value in a copy for snnTorch."),
    reset="zero",
    comparison=">",
    decay="euler",
    gains={"CubaLIF": Gain(accepts=("step",), why="It demands r = tau_mem/dt with dt = 1e-4 s.")},
    leaks=dict.fromkeys(("LIF", "CubaLIF"), Remark("error", "snnTorch refuses a leak potential.")),
    uniform={"LIF": ("v_threshold",), "CubaLIF": ("v_threshold",)},
    pair_cycle=Remark(
        "warning",
        "It feeds the input of the layer through the recurrent matrix; a dotted node name fails outright.",
    ),
    other_cycle=_NODE_ORDER,
    recurrent_bias="late",
    ports=_MODERN_PORTS,
    pool_padding="nirtorch's SumPool2d ignores it.",
    flattens_batch=True,
    one_gain=("LIF",),
)

SINABS = Tool(
    name="sinabs",
    title="Sinabs 2.0.3",
    basis="run",
    preset="sinabs-import",
    nodes=frozenset(
        {"Input", "Output", "Affine", "Conv1d", "Conv2d", "SumPool2d", "Flatten", "IF", "LI", "LIF"}
    ),
    step=TimeStep("constant", 1.0, "Write tau in time steps (tau/dt) in a copy for Sinabs."),
    reset="subtract",
    reset_note="It fires floor(v / v_threshold) times in one step, and IF keeps v above -v_threshold.",
    comparison=">=",
    decay="exponential",
    gains={
        "IF": Gain(exact=("step",), why=_GAIN_ONE_PER_STEP),
        "LIF": Gain(exact=("step",), why=_GAIN_ONE_PER_STEP),
        "LI": Gain(accepts=("one",), exact=("step",), why=f"It demands r = 1. {_GAIN_ONE_PER_STEP}"),
    },
    leaks=dict.fromkeys(("LIF", "LI"), Remark("error", "Sinabs refuses a leak potential.")),
    other_cycle=Remark("warning", "Its graph executor raises a KeyError on some cycles, e.g. with a skip."),
    recurrent_bias="late",
    branches=_WRONG_BRANCH,
    ports=_ONE_PORT,
    pool_padding="Sinabs ignores it.",
    flat_only=("LIF", "LI"),
    skips=True,
)

SPIKINGJELLY = Tool(
    name="spikingjelly",
    title="SpikingJelly 2.0.0",
    basis="run",
    preset="spikingjelly",
    nodes=_PLAIN | {"Conv1d", "Conv2d", "SumPool2d", "AvgPool2d", "Flatten", "IF", "LIF", "CubaLIF"},
    step=TimeStep("argument", 1e-4, "Call import_from_nir(graph, dt={dt:g})."),
    reset="value",
    comparison=">=",
    decay="euler",
    gains={
        "IF": Gain(accepts=("step",), why="It demands r = 1/dt."),
        "LIF": Gain(accepts=("one", "step"), why="It demands r = 1 or r = tau/dt."),
        "CubaLIF": Gain(accepts=("step",), why="It demands r = tau_mem/dt."),
        "w_in": Gain(accepts=("step",), why="It demands w_in = tau_syn/dt."),
    },
    leaks={
        "LIF": Remark("error", "SpikingJelly demands v_leak = v_reset."),
        "CubaLIF": Remark("error", "SpikingJelly refuses a leak potential."),
    },
    uniform={
        "IF": ("r", "v_threshold", "v_reset"),
        "LIF": ("tau", "r", "v_threshold", "v_reset", "v_leak"),
        "CubaLIF": ("tau_syn", "tau_mem", "r", "w_in", "v_threshold", "v_reset", "v_leak"),
    },
    other_cycle=_NODE_ORDER,
    recurrent_bias="late",
    ports=_MODERN_PORTS,
    pool_padding="nirtorch's SumPool2d ignores it.",
    float_weights=True,
)

ROCKPOOL = Tool(
    name="rockpool",
    title="Rockpool 3.1.0",
    basis="run",
    preset="rockpool",
    nodes=_PLAIN | {"CubaLIF", "LI"},
    refusals={"LIF": "It reads the field tau_mem, which a NIR LIF does not have."},
    step=TimeStep("guess", None, "Give r the value tau_mem/dt - 1 in a copy for Rockpool."),
    reset="subtract",
    reset_note="It may fire several times in one step.",
    comparison=">=",
    decay="exponential",
    gains={
        "CubaLIF": Gain(exact=("step",), why=_GAIN_ONE_PER_STEP),
        "LI": Gain(exact=(), why="It truncates tau to whole numbers, 0 for seconds."),
        "w_in": Gain(exact=("step",), why="It ignores w_in."),
    },
    leaks={
        "CubaLIF": Remark("warning", "Rockpool adds v_leak as a bias."),
        "LI": Remark("warning", "Rockpool ignores it."),
    },
    self_edges=False,
    other_cycle=Remark(
        "error", "It reads one pattern only: a CubaLIF with one recurrent matrix, as a nested graph."
    ),
    recurrent_bias="dropped",
    branches=_WRONG_BRANCH,
    ports=_ONE_PORT,
)

SPYX = Tool(
    name="spyx",
    title="Spyx 1.0.0",
    basis="read",
    preset="spyx",
    nodes=_PLAIN | {"Conv2d", "SumPool2d", "Flatten", "IF", "LIF", "CubaLIF"},
    refusals={"LI": "It reads LI only with a Threshold right behind it."},
    step=TimeStep("argument", 1.0, "Call from_nir(graph, data, dt={dt:g})."),
    reset="subtract",
    reset_note="It compares the v of the step before, so spikes come one step late.",
    comparison=">",
    decay="euler",
    gains={
        "IF": Gain(exact=("step",), why=_GAIN_ONE_PER_STEP),
        "LIF": Gain(exact=("step",), why=_GAIN_ONE_PER_STEP),
        "CubaLIF": Gain(exact=("step",), why=_GAIN_ONE_PER_STEP),
        "w_in": Gain(exact=("step",), why="It ignores w_in."),
    },
    leaks=dict.fromkeys(("LIF", "CubaLIF"), Remark("warning", "Spyx ignores it.")),
    self_edges=False,
    other_cycle=Remark("error", "It reads a chain, and one neuron with one recurrent matrix."),
    recurrent_bias="dropped",
    branches=Remark("warning", "Spyx follows one edge out of each node and drops the rest."),
    ports=Remark("warning", "Spyx follows the chain from 'input' and drops the rest."),
    pool_padding="Spyx pads any SumPool2d that has padding as 'SAME'.",
    input_name="input",
)

NENGO = Tool(
    name="nengo",
    title="Nengo, importer of the NIR paper",
    basis="read",
    nodes=_PLAIN | {"IF", "LI", "LIF", "CubaLIF"},
    refusals=dict.fromkeys(
        ("Conv2d", "SumPool2d", "Flatten"), "It takes shapes from the node names of the paper's own network."
    ),
    step=TimeStep("argument", 1e-3, "Call nir_to_nengo(graph, dt={dt:g}) and simulate with the same dt."),
    reset="zero",
    comparison=">",
    decay="exponential",
    gains={
        "IF": Gain(accepts=("one",), exact=("step",), why=f"It demands r = 1. {_GAIN_ONE_PER_STEP}"),
        "LIF": Gain(accepts=("one",), why="It demands r = 1."),
        "LI": Gain(exact=("one",), why="It ignores r."),
    },
    leaks={
        "LIF": Remark("error", "The importer refuses a leak potential."),
        "CubaLIF": Remark("error", "The importer refuses a leak potential."),
        "LI": Remark("warning", "The importer ignores it."),
    },
    uniform={"CubaLIF": ("r", "v_threshold", "tau_syn", "tau_mem")},
    first_only={"LIF": ("tau",), "LI": ("tau",)},
)

LAVA_DL = Tool(
    name="lava-dl",
    title="lava-dl, importer of the NIR paper",
    basis="read",
    nodes=frozenset({"Input", "Output", "Affine", "Conv2d", "SumPool2d", "IF", "Flatten", "CubaLIF"}),
    refusals={"Linear": "Its importer raises a TypeError on Linear; use Affine with a bias of 0."},
    step=TimeStep("argument", 1e-4, "Set ImportConfig(dt={dt:g})."),
    reset="zero",
    comparison=">=",
    decay="euler",
    gains={
        "IF": Gain(exact=(), why="It multiplies the threshold by r and adds the input itself to v."),
        "CubaLIF": Gain(accepts=("step",), why="It demands r = tau_mem/dt."),
    },
    leaks={"CubaLIF": Remark("error", "The importer refuses a leak potential.")},
    uniform={"IF": ("r", "v_threshold"), "CubaLIF": ("tau_syn", "tau_mem", "v_threshold")},
    self_edges=False,
    other_cycle=Remark("error", "It reads one pattern only: a neuron with one recurrent matrix."),
    branches=Remark("error", "It reads a chain."),
    ports=_ONE_PORT,
    zero_bias=("Conv2d",),
    input_name="input",
)

TOOLS: dict[str, Tool] = {
    tool.name: tool for tool in (NORSE, SNNTORCH, SINABS, SPIKINGJELLY, ROCKPOOL, SPYX, NENGO, LAVA_DL)
}
