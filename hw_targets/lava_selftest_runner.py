"""Runs one test file of lava-nc with pytest under Lava's own interpreter; standard library and pytest only.

    python -I lava_selftest_runner.py PYTEST_FOLDER TEST_FILE SECONDS

PYTEST_FOLDER comes last in the search order, so it hides nothing of the environment. lava-nc is
imported first as the worker imports it, with its two patches. Each event is one line of JSON in
events.jsonl of the working folder, written at once, so that it survives the end of this process:

    {"event": "start", "test": NAME}
    {"event": "result", "test": NAME, "outcome": "passed" | "failed" | "skipped" | "error", "why": TEXT}
    {"event": "end", "status": pytest's exit status}

A process that is not done after SECONDS is ended by SIGALRM, even where it hangs outside of Python.
"""

import importlib.util
import json
import os
import signal
import sys
from pathlib import Path

EVENTS = "events.jsonl"
WHY_LENGTH = 300
# No cache, no configuration of the folder, no plugins of the environment. pytest installs a thread hook
# and a fault handler that Lava's forked processes would inherit.
OPTIONS = ["-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", "-p", "no:threadexception"]


class Events:
    """A pytest plugin that notes what happens to every test, seen from the process that runs them."""

    def __init__(self, path):
        self.path, self.process = path, os.getpid()

    def note(self, **event):
        """One line; nothing from a process that Lava forked."""
        if os.getpid() != self.process:
            return
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")

    def pytest_runtest_logstart(self, nodeid):
        self.note(event="start", test=_name(nodeid))

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            outcome = "error" if report.failed and report.when != "call" else report.outcome
            self.note(event="result", test=_name(report.nodeid), outcome=outcome, why=_why(report))

    def pytest_collectreport(self, report):
        if report.outcome != "passed":
            outcome = "error" if report.failed else "skipped"
            self.note(event="result", test=_name(report.nodeid), outcome=outcome, why=_why(report))


def _name(nodeid):
    """`Class::test` of `folder/file.py::Class::test`; of a file its name."""
    return nodeid.partition("::")[2] or Path(nodeid).name


def _why(report):
    """The message of a failure, or why a test was skipped; "" of one that passed."""
    if report.outcome == "passed":
        return ""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash:
        return _line(crash.message)[:WHY_LENGTH]
    if isinstance(report.longrepr, tuple):
        return _line(report.longrepr[2])[:WHY_LENGTH]
    return _line(report.longreprtext)[-WHY_LENGTH:]  # of a traceback the end says most


def _line(text):
    return " ".join(str(text).split())


def main(pytest_folder, test_file, seconds):
    """Run the file and end at once, without waiting for processes that a test has left."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, float(seconds))
    sys.dont_write_bytecode = True
    sys.path.append(pytest_folder)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    spec = importlib.util.spec_from_file_location(
        "lava_worker", Path(__file__).resolve().parent / "lava_worker.py"
    )
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    worker.load_lava()
    import pytest

    events = Events(Path.cwd() / EVENTS)
    # the rootdir shortens names only; the file itself finds its package, as an installed one does
    status = pytest.main([*OPTIONS, "-c", os.devnull, "--rootdir", os.sep, test_file], plugins=[events])
    events.note(event="end", status=int(status))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
