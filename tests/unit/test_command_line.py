"""The command line of the server: every command is there, and each process imports no more than it needs."""

from __future__ import annotations

import inspect
import pkgutil
import subprocess
import sys

import pytest

from app.__main__ import COMMANDS
from app.settings import ROOT

UNUSED = "{'alembic', 'mako', 'PIL.ImageDraw', 'app.commands.demo'}"


@pytest.mark.parametrize("name", [*COMMANDS.values(), "demo:demo_once"])
def test_each_command_is_there(name: str) -> None:
    assert inspect.iscoroutinefunction(pkgutil.resolve_name(f"app.commands.{name}"))


@pytest.mark.slow
@pytest.mark.parametrize("process", ["app.__main__, app.commands.serving", "worker.__main__"])
def test_server_and_worker_carry_nothing_that_only_others_use(process: str) -> None:
    code = f"import sys, {process}; print(*sys.modules.keys() & {UNUSED})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
