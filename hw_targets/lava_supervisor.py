# pyright: reportMissingImports=false
"""Runs a network on Lava's own runtime and turns its hangs into errors; loaded by the Lava worker only."""

import multiprocessing
import time

from lava.magma.core.run_conditions import RunSteps
from lava.magma.runtime.mgmt_token_enums import MGMT_RESPONSE, enum_equal

POLL_S = 0.002
REPORT_S = 1.0  # how long the failed model's report may come after others have ended


class LavaFailure(RuntimeError):
    """A process model raised, died or ran out of time."""


def supervise(process, steps, run_config, timeout_s):
    """Run and stop; Lava itself waits for ever when a process model raises or dies.

    Raises:
        LavaFailure: with the last line of the failed model, its exit code, or "out of time".
    """
    deadline = time.monotonic() + timeout_s
    try:
        # Two slots per channel instead of 64: shared memory stays small, the results are the same.
        process.create_runtime(run_cfg=run_config, compile_config={"pypy_channel_size": 2})
    except Exception as error:
        if process.runtime is not None:
            _kill(process.runtime)
        raise LavaFailure(f"the network cannot be built: {error}") from error
    runtime = process.runtime
    process.run(condition=RunSteps(num_steps=steps, blocking=False))
    finished = runtime.service_to_runtime[0]
    # A failed service also answers; its answer must not reach `wait`, which would join blocked actors.
    while not finished.probe() or enum_equal(finished.peek(), MGMT_RESPONSE.ERROR):
        failure = _failure(runtime._messaging_infrastructure.actors)
        if failure:
            _kill(runtime)
            raise LavaFailure(f"a process model failed: {failure}")
        if time.monotonic() > deadline:
            _kill(runtime)
            raise LavaFailure(f"the Lava runtime ran out of time ({timeout_s:g} s)")
        time.sleep(POLL_S)
    runtime.wait()
    process.stop()


def _failure(actors):
    """Why the run cannot end: the last line of the model that raised, or exit codes; "" if none is gone."""
    if not any(actor.exitcode is not None or actor._pconn.poll() for actor in actors):
        return ""
    deadline = time.monotonic() + REPORT_S
    while time.monotonic() < deadline:
        for actor in actors:
            message = actor._pconn.recv() if actor._pconn.poll() else None
            if message:
                return message[1].strip().splitlines()[-1]
        time.sleep(POLL_S)
    codes = [str(actor.exitcode) for actor in actors if actor.exitcode]
    return f"exit code {', '.join(codes) or 0}"


def _kill(runtime):
    """End the actors and free the shared memory; `stop()` would wait for the dead."""
    infrastructure = runtime._messaging_infrastructure
    for actor in infrastructure.actors:
        actor.kill()
    for actor in infrastructure.actors:
        multiprocessing.Process.join(actor, 2)
    infrastructure._actors.clear()
    infrastructure._smm.shutdown()
    runtime._is_started = runtime._is_running = False
    runtime._open_ports.clear()
