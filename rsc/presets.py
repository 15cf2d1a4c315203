"""The semantics of other simulators, so that a NIR file runs here as it runs there.

Each preset is what a simulator does with a NIR graph: its own update rule under the parameters of the
file, recorded or read in the source of the version named. `preset("norse", dt=1e-4)` gives the
`Semantics`, `under(program, "norse")` a program with them; `PRESETS["norse"].limits` says in which
graphs that simulator still differs. Targets `reference` and `torch` honour all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import msgspec

from rsc.errors import unknown_name
from rsc.program import Program, Semantics


@dataclasses.dataclass(frozen=True)
class Preset:
    """What one simulator does.

    Fields:
        rules: fields of `Semantics` that differ from their defaults.
        update: the update of its LIF in its own words, with b = dt/tau and a = exp(-b).
        source: where the rule comes from.
        limits: what it does and no field of `Semantics` says.
    """

    rules: Mapping[str, Any]
    update: str
    source: str
    limits: str = ""


_SINABS: dict[str, Any] = {
    **{"integrator": "exponential", "comparison": ">=", "reset": "subtract"},
    **{"spikes_per_step": "many", "input_gain": "one"},
}

PRESETS: dict[str, Preset] = {
    "snntorch": Preset(
        {"reset": "zero", "recurrent_bias": True},
        "v = (1 - b) v + b r x; v > thr -> 0",
        "snnTorch 1.0.0, import_from_nir; recordings of the NIR paper",
        "It imports one threshold per layer, v_leak 0, a CubaLIF with r = tau_mem/dt alone, and an IF with a "
        'leak. Leaky with reset_mechanism "zero" spikes alike with and without reset_delay.',
    ),
    "snntorch-hold": Preset(
        {"reset": "zero", "reset_step": "hold", "recurrent_bias": True},
        "v = 0 where v > thr in the step before, else (1 - b) v + b r x",
        'snnTorch 1.0.0, Synaptic, RLeaky, RSynaptic with reset_mechanism "zero" and reset_delay (default)',
        "Leaky resets otherwise: see snntorch.",
    ),
    "snntorch-subtract": Preset(
        {"reset": "subtract", "reset_step": "next", "recurrent_bias": True},
        "v = (1 - b) v + b r x - z' thr, z' = v > thr of the step before",
        'snnTorch 1.0.0, neurons with reset_mechanism "subtract", their default',
        "export_to_nir writes these neurons as if they reset to 0, and import_from_nir then does so.",
    ),
    "norse": Preset(
        {"reset": "zero", "v0": "v_leak", "input_gain": "leak"},
        "v = v + b (v_leak - v + x); v > thr -> 0; IF: v = v + x",
        "Norse 1.1.0, from_nir; recordings of the NIR paper",
        "The synapse of its CubaLIF leaks to v_leak too.",
    ),
    "spyx": Preset(
        {"reset": "subtract", "recurrent_bias": True, "reset_step": "next", "shift": "spikes"},
        "z = v > thr, of the old v, is what it hands on; v = (1 - b) v + b x - z thr",
        "Spyx, nn.IF and nn.LIF; recordings of the NIR paper",
        "It reads r as 1 and v_leak as 0, and runs linear chains only. Its CuBaLIF subtracts the threshold "
        "twice, before and after the leak.",
    ),
    "spyx-recurrent": Preset(
        {"reset": "subtract", "recurrent_bias": True, "shift": "spikes"},
        "z = v > thr, of the old v, is what it hands on; i = (1 - b_syn) i + x; v = (1 - b) (v - z thr) + i",
        "Spyx, nn.RCuBaLIF, which takes the threshold away before the leak; recordings of the NIR paper",
        "It reads r as tau_mem/dt and v_leak as 0.",
    ),
    "sinabs": Preset(
        _SINABS,
        "v = a v + x; z = floor(v/thr); v = v - z thr",
        "Sinabs 2.0.3, layers with norm_input False; recordings of the NIR paper, whose input is scaled by b",
        "It counts tau in time steps: --time-unit steps. to_nir drops tau_syn, min_v_mem and norm_input. "
        "from_nir refuses v_leak and reads no CubaLIF.",
    ),
    "sinabs-norm": Preset(
        _SINABS | {"input_gain": "leak"},
        "v = a v + (1 - a) x; z = floor(v/thr); v = v - z thr",
        "Sinabs 2.0.3, LIF with norm_input True, its default",
        "As sinabs.",
    ),
    "sinabs-import": Preset(
        _SINABS | {"clamp": "if"},
        "as sinabs; IF: v >= -thr",
        "Sinabs 2.0.3, from_nir",
        "As sinabs. It returns the output of the wrong node where two branches meet.",
    ),
    "spikingjelly": Preset(
        {"comparison": ">=", "v0": "v_leak"},
        "v = v + b (v_leak - v + r x); v >= thr -> v_reset",
        "SpikingJelly 2.0.0, import_from_nir",
        "It takes r = 1 or tau/dt (IF: 1/dt), v_leak = v_reset, one tau and one threshold per layer. Its IF "
        "starts at v_reset.",
    ),
    "rockpool": Preset(
        {"integrator": "mixed", "comparison": ">=", "reset": "subtract", "spikes_per_step": "many"},
        "v = a v + b r x; z = floor(v/thr); v = v - z thr",
        "Rockpool 3.1.0, LIFTorch; recordings of the NIR paper",
        "It takes r and w_in for tau/dt, decays the input of a synapse together with its current, adds "
        "v_leak at every step, and ignores the bias of a recurrent Affine.",
    ),
    "exact": Preset(
        {"integrator": "exponential", "reset_step": "crossing"},
        "v = x + (v - x) exp(-t/tau) inside a step; v -> v_reset when it reaches thr",
        "the closed form of the equation; event-driven recording of the NIR paper",
        "Input is constant over a step. A synaptic current is taken at the end of the step.",
    ),
    "lava": Preset(
        {"reset": "zero", "shift": "weights"},
        "v = (1 - b) v + b r x of the step before; v > thr -> 0",
        "Lava 0.10.0, floating-point LIF behind one Dense per weight; recordings of the NIR paper",
        "Biases in Lava belong to the neuron and act from the first step; here they come with the weights.",
    ),
}


def preset(name: str, dt: float) -> Semantics:
    """The semantics of a simulator.

    Args:
        name: one of `PRESETS`.
        dt: time step in seconds.

    Raises:
        UsageError: no such preset, or a time step that is none.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return Semantics(dt, **PRESETS[name].rules)


def under(program: Program, name: str) -> Program:
    """`program` as a simulator steps it: its dt and readout stay, its delayed edges become the simulator's.

    Raises:
        UsageError: no such preset.
    """
    semantics = preset(name, program.semantics.dt)
    kept = msgspec.structs.replace(semantics, readout=program.semantics.readout)
    return dataclasses.replace(program, semantics=kept)
