"""Exact operation counts of a run and what they cost: `energy_report(program, run)`."""

from rsc.energy.ann import ann_macs
from rsc.energy.by_step import sop_by_step
from rsc.energy.counts import Counts, NodeCounts, count
from rsc.energy.encoder import bernoulli_encoder, encoder_counts, expected_sop
from rsc.energy.estimate import DEFAULT_PROFILES, energy_report, report_of
from rsc.energy.fanout import FanOut, emitter_fan_outs, fan_outs, synops_loss
from rsc.energy.neurobench import neurobench_metrics
from rsc.energy.profile import Profile, list_profiles, load_profile, parse_profile
from rsc.energy.results import Conventions, EnergyReport
from rsc.energy.stream import count_stream, joined

__all__ = [
    "DEFAULT_PROFILES",
    "Conventions",
    "Counts",
    "EnergyReport",
    "FanOut",
    "NodeCounts",
    "Profile",
    "ann_macs",
    "bernoulli_encoder",
    "count",
    "count_stream",
    "emitter_fan_outs",
    "encoder_counts",
    "energy_report",
    "expected_sop",
    "fan_outs",
    "joined",
    "list_profiles",
    "load_profile",
    "neurobench_metrics",
    "parse_profile",
    "report_of",
    "sop_by_step",
    "synops_loss",
]
