"""Long certifications: kills lose little and count nothing twice, ranks change nothing, twins stand in."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from toy_models import Linear

from rsc.coding import keyed_normal
from rsc.encoder_spec import EncoderSpec
from rsc.errors import MalformedFile, RscError, UsageError
from rsc.results import Keys
from rsc.robustness.certify import certify
from rsc.robustness.certify_count import FRAME_BYTES, Job, Series, Share, batch_for, count, identity_of
from rsc.robustness.certify_state import TallyFolder, Unit
from rsc.robustness.predict import Generated, Keyed
from rsc.robustness.results import CertifyReport

SPEC = EncoderSpec("rsc2", 2, 0.5)
X = np.linspace(-0.5, 1.0, 7, dtype=np.float32)[:, None]
Y = (X[:, 0] <= 0).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Sign:
    """Class 0 where the mean frame is positive; slow on purpose, so that kills find it at work."""

    pause_s: float = 0.0
    identity: str = "sign"

    def __call__(self, x: np.ndarray, keys: Keys) -> np.ndarray:
        time.sleep(self.pause_s)
        z = x[None] + 0.5 * keyed_normal(keys, 2, x.shape[1:])
        return (z.mean((0, 2)) <= 0).astype(np.int64)


def work(folder: Path | None, model: Any = Sign(), **options: Any) -> CertifyReport:
    settings: dict[str, Any] = {"n0": 30, "n": 400, "chunk": 40, "batch": 40} | options
    return certify(model, X, Y, encoder=SPEC, state=folder, **settings)


@pytest.fixture(scope="module")
def whole() -> CertifyReport:
    return work(None)


@contextlib.contextmanager
def child(folder: Path, **environment: str) -> Iterator[int]:
    """A process that certifies into the folder; its id. It is gone afterwards."""
    pid = os.fork()
    if pid == 0:
        try:
            os.environ.update(environment)
            work(folder, Sign(0.002))
            os._exit(0)
        except BaseException:
            os._exit(1)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def units(folder: Path) -> int:
    return sum(max(0, path.read_bytes().count(b"\n") - 1) for path in folder.glob("*.tallies"))


def test_killed_at_random_times_nothing_is_lost_or_counted_twice(
    tmp_path: Path, whole: CertifyReport
) -> None:
    rng, total = np.random.default_rng(0), 7 * 11
    kills = 0
    while units(tmp_path) < total and kills < 60:
        before = units(tmp_path)
        with child(tmp_path) as pid:
            time.sleep(float(rng.uniform(0.005, 0.06)))
            os.kill(pid, signal.SIGKILL)
        kills += 1
        assert units(tmp_path) >= before
    assert kills >= 3
    assert work(tmp_path) == whole
    assert units(tmp_path) == total  # no unit was done twice


def test_a_file_torn_at_any_byte_costs_its_last_line_only(tmp_path: Path, whole: CertifyReport) -> None:
    work(tmp_path)
    (path,) = tmp_path.glob("*.tallies")
    data = path.read_bytes()
    for size in (0, 1, 30, *np.random.default_rng(1).integers(0, len(data), 12).tolist()):
        for old in tmp_path.glob("*.tallies"):
            old.unlink()
        path.write_bytes(data[:size])
        folder = TallyFolder(tmp_path, _job_of(data))
        assert len(folder.done) == max(0, data[:size].count(b"\n") - 1)
        assert work(tmp_path) == whole


def _job_of(data: bytes) -> str:
    return data.split(b'"job":"')[1][:64].decode()


def test_a_finished_folder_needs_no_more_runs(tmp_path: Path, whole: CertifyReport) -> None:
    work(tmp_path)

    class Never(Sign):
        name = "Sign"

        def __call__(self, x: np.ndarray, keys: Keys) -> np.ndarray:
            raise AssertionError

    assert work(tmp_path, Never()) == whole


@pytest.mark.parametrize(
    "other", [{"n": 401}, {"seed": 1}, {"n0": 31}, {"chunk": 41}, {"model": Sign(identity="other")}]
)
def test_a_folder_of_another_certification_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    """More draws after a look at the result would be peeking."""
    work(tmp_path)
    with pytest.raises(UsageError, match="another certification"):
        work(tmp_path, **other)


def test_a_changed_line_is_noticed(tmp_path: Path) -> None:
    work(tmp_path)
    (path,) = tmp_path.glob("*.tallies")
    path.write_bytes(path.read_bytes().replace(b'{"0":40}', b'{"0":41}', 1))
    with pytest.raises(MalformedFile, match="checksum"):
        work(tmp_path)


def test_units_that_two_processes_finished_count_once(tmp_path: Path, whole: CertifyReport) -> None:
    work(tmp_path)
    (path,) = tmp_path.glob("*.tallies")
    (tmp_path / "zzz.tallies").write_bytes(path.read_bytes())
    assert work(tmp_path) == whole


def test_functions_without_identity_cannot_go_on(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="plain function"):
        certify(lambda x, keys: np.zeros(len(x), int), X, Y, encoder=SPEC, state=tmp_path)


def test_weights_are_part_of_the_identity() -> None:
    @dataclasses.dataclass(frozen=True)
    class Holder:
        module: torch.nn.Module

    with torch.random.fork_rng():
        torch.manual_seed(0)
        one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    assert identity_of(Holder(one)) == identity_of(Holder(one)) != identity_of(Holder(other))


def test_two_ranks_at_once_give_the_result_of_one(tmp_path: Path, whole: CertifyReport) -> None:
    with contextlib.ExitStack() as stack:
        pids = [stack.enter_context(child(tmp_path, RANK=rank, WORLD_SIZE="2")) for rank in ("0", "1")]
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0]
    files = sorted(path.name[:9] for path in tmp_path.glob("*.tallies"))
    assert files == ["rank-0000", "rank-0001"]
    assert units(tmp_path) == 7 * 11
    assert work(tmp_path) == whole


def test_a_rank_that_died_is_missed_and_its_share_done_later(tmp_path: Path, whole: CertifyReport) -> None:
    with pytest.raises(RscError, match="units are missing"):
        work(tmp_path, share=Share(0, 3, patience_s=0.2))
    assert units(tmp_path) == math.ceil(7 * 11 / 3)
    assert work(tmp_path) == whole
    assert units(tmp_path) == 7 * 11


def test_several_ranks_need_a_folder() -> None:
    with pytest.raises(UsageError, match="meet in a folder"):
        work(None, share=Share(0, 2))


SCRIPT = """
import sys
from pathlib import Path
from test_certify_scale import work
print(work(Path(sys.argv[1])).images)
"""


def test_torchrun_with_two_processes(tmp_path: Path, whole: CertifyReport) -> None:
    (tmp_path / "job.py").write_text(SCRIPT)
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(tmp_path / "job.py"), str(tmp_path / "state")],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(str(whole.images)) == 2
    assert {path.name[:9] for path in (tmp_path / "state").glob("*")} == {"rank-0000", "rank-0001"}


def test_batches_are_of_whole_units_and_bounded() -> None:
    sizes: list[int] = []

    def predict(x: np.ndarray, keys: Keys) -> np.ndarray:
        sizes.append(len(x))
        return np.zeros(len(x), np.int64)

    series = (Series(predict, "select", 30), Series(predict, "estimate", 1000))
    found = count(Job(X, np.arange(7), series, 0, chunk=250, batch=100))
    assert [t[0][0] for t in found] == [30] * 7
    assert [t[1][0] for t in found] == [1000] * 7
    assert max(sizes) == 100
    assert sizes[:3] == [90, 90, 30]  # three selections at once
    assert batch_for((3, 32, 32), 8) * 3 * 32 * 32 * 8 * 4 <= FRAME_BYTES
    assert batch_for((1 << 24,), 8) == 1


def test_noise_of_a_generator_is_a_property_of_the_unit() -> None:
    model = Generated(Linear(torch.ones(1), 0.0, SPEC))
    results = [certify(model, X, Y, n0=30, n=300, chunk=60, batch=b).images for b in (60, 1000, 7)]
    assert results[0] == results[1] == results[2]


def test_kept_units_have_all_their_draws(tmp_path: Path) -> None:
    job = Job(X[:1], np.arange(1), (Series(Sign(), "estimate", 100),), 0, 50, 50)
    folder = TallyFolder(tmp_path, "j")
    folder.add({Unit(0, 0, 0): {0: 50}, Unit(0, 0, 1): {0: 49}})
    with pytest.raises(RscError, match="49 draws"):
        count(job, folder)


def noisy_copy(q: float) -> Any:
    """The target: as `Sign`, but wrong on a share q of the runs, whatever the noise."""

    class Copy(Sign):
        identity = "copy"

        def __call__(self, x: np.ndarray, keys: Keys) -> np.ndarray:
            draws = np.broadcast_to(np.asarray(keys.draw), len(x))
            seeds = zip(keys.samples, draws, strict=True)
            flip = np.array([np.random.default_rng([7, int(s), int(d)]).random() < q for s, d in seeds])
            return np.where(flip, 1 - Sign()(x, keys), Sign()(x, keys))

    return Copy()


def test_transfer_bounds_the_target_and_not_the_twin() -> None:
    """pA of the target is known: p (1 - q) + (1 - p) q; the bound must lie below it, and not far."""
    x = np.linspace(0.2, 1.0, 20, dtype=np.float32)[:, None]
    p = stats.norm.cdf(x[:, 0] / (0.5 / math.sqrt(2)))
    report = certify(
        Sign(), x, np.zeros(20), encoder=SPEC, target=noisy_copy(0.05), n=3000, paired=1000, alpha=0.01
    )
    truth = p * 0.95 + (1 - p) * 0.05
    found = np.array([i.p_low for i in report.images])
    assert (found > truth).sum() <= stats.binom.ppf(0.9999, 20, 0.01)
    assert (p * 0.95 - found).max() < 0.06
    assert report.transfer is not None
    assert report.transfer.disagreements / report.transfer.runs == pytest.approx(0.05, abs=0.01)
    assert report.transfer.lost < report.transfer.disagreements
    assert report.transfer.draws == 1000


def test_an_equal_target_pays_only_for_what_was_not_looked_at() -> None:
    """700 paired runs without a disagreement: q_up 0.011 at alpha 0.001."""
    x, y = np.full((2, 1), 5.0, np.float32), np.zeros(2)
    report = certify(Sign(), x, y, encoder=SPEC, target=Sign(identity="other"), n=1000, paired=700)
    assert report.transfer is not None
    assert report.transfer.q_up_least == pytest.approx(math.log(2000) / 700, rel=0.01)
    assert report.images[0].p_low == pytest.approx(0.0005 ** (1 / 1000) - report.transfer.q_up_mean)
    assert report.images[0].radius == pytest.approx(report.ceiling)


def test_twin_and_target_must_see_the_same_noise() -> None:
    model = Linear(torch.ones(1), 0.0, SPEC)
    with pytest.raises(UsageError, match="same noise"):
        certify(Generated(model), X, Y, target=Keyed(model))
    other = Linear(torch.ones(1), 0.0, EncoderSpec("rsc2", 2, 0.4))
    with pytest.raises(UsageError, match="same noise"):
        certify(Keyed(model), X, Y, target=Keyed(other))
