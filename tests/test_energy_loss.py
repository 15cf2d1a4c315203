"""The loss on operations in training is the exact count of the exported program; the command line adds it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rsc.encoder_spec import EncoderSpec
from rsc.energy import count
from rsc.export.to_nir import to_program
from rsc.hw_targets import deploy
from rsc.networks import NetworkSpec, build
from rsc.training import read_config
from rsc.training.losses import SpikeRate
from rsc.training.losses.recording import recording
from rsc.training.losses.spike_rate import fan_out_maps, operation_share

T, B = 5, 3


@pytest.mark.parametrize("name", ["convnet", "resnet18"])
def test_the_share_times_all_operations_is_the_exact_count(name: str) -> None:
    torch.manual_seed(0)
    spec = NetworkSpec(name, (4, 8)) if name == "convnet" else NetworkSpec(name, width=1 / 16)
    network = build(spec, (1, 8, 8), 10).eval()
    frames = torch.rand(T, B, 1, 8, 8) * 4
    with torch.no_grad(), recording(network) as found:
        network(frames)
    maps = fan_out_maps(network, frames[0])
    most = T * sum(float(f.sum()) for f in maps)
    share = float(operation_share(found.spikes(), maps))
    program = to_program(network, (1, 8, 8), EncoderSpec("direct", T))
    with deploy(program, "torch") as model:
        result = model.run_frames(frames.numpy())
    counts = count(program, result.spikes, T)
    assert sum(int(n.per_pass("sop").sum()) for n in counts.nodes) > 0
    assert share * most * B == pytest.approx(
        sum(int(n.per_pass("sop").sum()) for n in counts.nodes), rel=1e-5
    )


def test_the_command_line_adds_the_term_and_fewer_operations_come_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rsc.cli import main

    (tmp_path / "c.toml").write_text(
        "epochs = 2\nbatch_size = 128\nlabel_smoothing = 0.1\n[network]\nname = 'mlp'\nchannels = [16]\n"
        "[encoder]\nsteps = 3\nsigma = 0.2\n"
    )
    operations = []
    for weight in (0.0, 20.0):
        out = tmp_path / f"w{weight:g}"
        for words in (
            ("train", tmp_path / "c.toml", "--out", out, "--synops-weight", weight),
            ("energy", out, "--n", 50, "--profile", "seneca", "--json"),
        ):
            with pytest.raises(SystemExit) as ended:
                main([str(w) for w in words])
            assert not ended.value.code
            shown = capsys.readouterr().out
        operations.append(json.loads(shown)["totals"]["sop"])
    assert operations[1] < 0.7 * operations[0]
    terms = read_config(next((tmp_path / "w20").glob("*.toml"))).objective.terms
    assert [type(t) for t in terms][-1] is SpikeRate
    assert terms[-1].weight == 20
    assert np.isfinite(operations).all()
