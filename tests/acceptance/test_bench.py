"""The short form of `make bench`: every row does its work. How long that takes here is no test's business."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import pytest
from acceptance.commands import ROOT

pytestmark = pytest.mark.slow

NUMBER = r"-?[\d,]+(\.\d+)?( \S.*)?"
LINES = {
    "create a job, 4 connections": 3,
    "read a job by id": 3,
    "one at a time": 3,
    "POST sent → first frame beyond `pending`": 2,
    "POST sent → `completed`, less the job's length": 2,
    "jobs of 0.05–0.1 s:": 2,
    "jobs of 0.05–0.1 s with 20 MB each:": 2,
    "of 4 MB": 2,
    "jobs of no length": 1,
    "20 sockets: Redis gets": 1,
    "20 sockets: connects": 1,
    "last watcher": 2,
    "jobs of 2 checkpoints by turns, 2 backends": 2,
    "jobs of 5 checkpoints by Zipf's law, 3 backends": 3,
    "3 jobs behind 4 of another user": 2,
    "3 backends of one worker, jobs of 0.2 s": 4,
    "a job with a key, beside without one": 4,
    "while another key floods": 2,
}
"""Part of a line's first cell → how many lines have it, wherever the benchmark runs."""


def bench(*arguments: str) -> tuple[int, str, str]:
    """Run the benchmark, and return its exit code and what it said on both outputs."""
    command = [sys.executable, "-m", "tests.bench", *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            table, told = running.communicate(timeout=160)
        except BaseException:
            # It stops everything that it has started.
            running.send_signal(signal.SIGTERM)
            running.wait(30)
            raise
    return running.returncode, table, told


@pytest.mark.timeout(190)
def test_every_row_is_measured() -> None:
    code, table, told = bench("--quick")
    assert code == 0, told
    header, rule, *lines, blank, machine = table.splitlines()
    assert (header, rule, blank) == ("| what | Genonaut | limit in the same run | ratio |", "|---|--:|--:|--:|", "")
    for line in lines:
        assert re.fullmatch(rf"\| [^|]+ \| {NUMBER} \| (–|{NUMBER}) \| (–|\d+\.\d\d) \|", line), line
    for part, count in LINES.items():
        assert sum(part in line for line in lines) == count, table
    assert re.search(r"\d+ cores, .+; Python 3\.\d+\.\d+, PostgreSQL \d", machine)


def test_a_row_that_does_not_exist_is_named() -> None:
    code, _, told = bench("--only", "create,nonsense")
    assert code == 2
    assert "no such row: nonsense" in told
