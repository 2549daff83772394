"""The short form of `make chaos`: real processes are killed and restarted under load, and every promise is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from acceptance.commands import ROOT

pytestmark = pytest.mark.slow

SEED = os.environ.get("CHAOS_SEED") or "7"


@pytest.mark.timeout(150)
def test_no_job_is_lost_and_none_runs_twice_whatever_dies() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--small", "--seconds", "12", "--jobs", "40", "--seed", SEED]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as chaos:
        try:
            told, _ = chaos.communicate(timeout=120)
        except BaseException:
            # It stops everything that it has started.
            chaos.send_signal(signal.SIGTERM)
            chaos.wait(30)
            raise
    assert chaos.returncode == 0, told
