"""What the server does for itself before it serves."""

from __future__ import annotations

import subprocess
import sys

import pytest

from app.settings import ROOT

pytestmark = pytest.mark.slow

PROGRAM = """
import gc, resource
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
from app.commands.serving import prepare_for_many_sockets
prepare_for_many_sockets()
print(resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard), gc.get_freeze_count() > 10_000)
"""


def test_a_server_may_open_as_many_sockets_as_the_system_allows() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]
