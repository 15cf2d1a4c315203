"""Bundles: round trip, every damage found before use, nothing half written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nir
import numpy as np
import pytest

from rsc.bundle import Bundle, load_program
from rsc.errors import InputRefused, MalformedFile, RscError, StorageError
from rsc.pipeline import Packed, to_bundle
from rsc.training import TrainConfig

FILES = ("model.safetensors", "program.nir", "rsc.json", "README.md")


@pytest.fixture
def bundle(packed: Packed, small_config: TrainConfig) -> Bundle:
    return to_bundle(packed, small_config, "small")


@pytest.fixture
def saved(bundle: Bundle, tmp_path: Path) -> Path:
    return bundle.save(tmp_path / "model")


def test_round_trip(bundle: Bundle, saved: Path) -> None:
    again = Bundle.load(saved)
    assert again.program == bundle.program
    assert again.config == bundle.config
    assert again.metrics["clean_accuracy_per_run"]["n"] == 500
    for key, value in bundle.state.items():
        np.testing.assert_array_equal(again.state[key], value)
    assert sorted(p.name for p in saved.iterdir()) == sorted(FILES)


def test_plain_nir_reads_the_program(bundle: Bundle, saved: Path) -> None:
    assert set(nir.read(str(saved / "program.nir")).nodes) == set(bundle.program.graph.nodes)
    assert load_program(saved / "program.nir") == bundle.program


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_found(saved: Path, name: str) -> None:
    data = bytearray((saved / name).read_bytes())
    for position in np.random.default_rng(0).integers(0, len(data), 8):
        damaged = data.copy()
        damaged[position] ^= 4
        (saved / name).write_bytes(damaged)
        if name == "rsc.json" and _same_meaning(data, damaged):
            continue
        with pytest.raises((MalformedFile, InputRefused)):
            Bundle.load(saved)


def _same_meaning(a: bytearray, b: bytearray) -> bool:
    """The facts are not their own witness: a flip in a free text or a metric changes only that text."""
    try:
        x, y = json.loads(a), json.loads(b)
    except ValueError:
        return False
    return isinstance(y, dict) and all(x[k] == y.get(k) for k in ("files", "program_digest", "version"))


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises((MalformedFile, InputRefused), match=name):
        Bundle.load(saved)


def test_links_are_refused(saved: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (saved / "model.safetensors").rename(outside)
    (saved / "model.safetensors").symlink_to(outside)
    with pytest.raises(MalformedFile, match="plain file"):
        Bundle.load(saved)


def test_no_bundle_there(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="no bundle"):
        Bundle.load(tmp_path / "nothing")
    with pytest.raises(InputRefused, match=r"rsc\.json"):
        Bundle.load(tmp_path)


def test_other_peoples_folders_are_not_replaced(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputRefused, match="not a bundle"):
        bundle.save(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_failed_save_leaves_the_old_bundle(bundle: Bundle, saved: Path, monkeypatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(StorageError, match="space"):
        bundle.save(saved)
    assert Bundle.load(saved).program == bundle.program
    assert os.listdir(saved.parent) == ["model"]


def test_errors_say_what_why_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RscError) as caught:
        Bundle.load(tmp_path / "nothing")
    assert caught.value.what
    assert caught.value.why
    assert caught.value.fix
    assert caught.value.exit_code == 4
