"""What a parity check finds: two targets on the same frames, compared value by value.

Plain frozen values that become JSON and back without loss. Nothing here computes.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Signal = Literal["s", "u", "v", "output"]


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where two recordings first differ, in time first: position in the batch and time step, from 0."""

    sample: int
    step: int


class NodeParity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One recorded signal of one node on both targets.

    Fields:
        node: dotted name of the NIR node.
        signal: "s" spikes, "u" synaptic current, "v" membrane, "output" values of an Output node.
        compared: number of values compared (steps * images * sites).
        different: how many of them differ at all.
        max_abs_diff: largest absolute difference, in the units of the signal (0 or 1 for spikes).
        first_difference: where the first one is; None if there is none.
    """

    node: str
    signal: Signal
    compared: int
    different: int
    max_abs_diff: float
    first_difference: Place | None = None


class Agreement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Share of images that both targets put into the same class.

    Fields:
        value: fraction in [0, 1] of n images.
        low, high: interval that holds the true share with probability `level`.
        method: how the interval was made, e.g. "wilson".
    """

    value: float
    n: int
    low: float
    high: float
    level: float = 0.95
    method: str = "wilson"


class ParityRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two targets on the same images under the same noise.

    Fields:
        target_a, target_b: target specs as the user wrote them; version_a, version_b: their versions.
        n, steps: images and time steps T.
        same_frames: both targets received the same input (equal digests); without it nothing else counts.
        exact: every compared value is equal, bit for bit.
        nodes: one entry per node and signal, in the order of the data flow.
        prediction_agreement: by class; None if there are no logits.
        max_logit_diff: largest absolute difference of a logit, in units of the program's output.
        seed: of the encoder's noise; None if ready-made frames were given.
        note: what a reader must know, e.g. which tolerance applies and why.
        model: name of the model; program_digest: SHA-256 of the program; frames_digest: of its input.
    """

    target_a: str
    target_b: str
    n: int
    steps: int
    same_frames: bool
    exact: bool
    nodes: tuple[NodeParity, ...] = ()
    prediction_agreement: Agreement | None = None
    max_logit_diff: float | None = None
    seed: int | None = None
    version_a: str = ""
    version_b: str = ""
    note: str = ""
    model: str = ""
    program_digest: str = ""
    frames_digest: str = ""
