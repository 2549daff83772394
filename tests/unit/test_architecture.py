"""What holds for the code as a whole: who imports whom, and that imports do nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.settings import ROOT

pytestmark = pytest.mark.slow

IMPORT_ALL = """
import pkgutil, socket, subprocess, sys, threading
import app, worker
def forbidden(*arguments, **keywords):
    raise AssertionError("a module does work when it is imported")
socket.socket.connect = socket.socket.bind = subprocess.Popen.__init__ = threading.Thread.start = forbidden
for package in (app, worker):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            __import__(module.name)
            print(module.name)
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


def test_the_import_contracts_hold() -> None:
    done = run(str(Path(sys.executable).with_name("lint-imports")), "--no-cache")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Contracts: [1-9]\d* kept, 0 broken", done.stdout)


def test_no_module_does_work_when_it_is_imported() -> None:
    done = run(sys.executable, "-W", "error", "-c", IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    names = done.stdout.split()
    assert {"app.main", "worker.main", "worker.standin.main", "app.web.websockets"} <= set(names)
