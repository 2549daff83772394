"""What make offers, and what it says when .venv cannot be made."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from acceptance.commands import ROOT, free_ports

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("make") is None, reason="there is no make"),
]

ENVIRONMENTS = ("dev", "demo", "test")
SINGLE = (
    "demo",
    "demo-once",
    "test",
    "standin",
    "redis-start",
    "lint",
    "types",
    "settings-table",
    "constraints",
    "audit",
)
FOR_EACH_ENVIRONMENT = {
    "up": "app up",
    "api": "app serve",
    "worker": "worker",
    "monitor": "app monitor",
    "celery": "worker",
    "flower": "app monitor",
    "redis-keys": "app redis-keys",
    "redis-info": "app redis-info",
    "redis-flush": "app redis-flush",
    "migrate": "app migrate",
    "cron-status": "app cron-status",
    "workers": "app workers",
}
"""Target → the module, and its command, that it runs; each with `-dev`, `-demo` and `-test`."""
SOURCES = ("setup.cfg", "pyproject.toml", "env/constraints.txt", "env/constraints-dev.txt")
TOOLS = ("make", "sh", "awk", "grep", "cut", "sed", "tail", "date", "mkdir", "rm", "cp", "dirname")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A fresh clone, as far as make looks."""
    folder = tmp_path / "clone"
    shutil.copytree(ROOT / "env", folder / "env", ignore=shutil.ignore_patterns("data"))
    for name in ("Makefile", *SOURCES):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def installed(clone: Path) -> Path:
    """A clone whose .venv is complete and newer than what it was made from."""
    folder = clone / ".venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "python").symlink_to(sys.executable)
    for stamp in (clone / ".venv" / ".run", clone / ".venv" / ".dev"):
        stamp.touch()
        os.utime(stamp, (2_000, 2_000))
    for source in SOURCES:
        os.utime(clone / source, (1_000, 1_000))
    return clone


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make as from a shell of one's own: these tests may themselves be run by make."""
    ours = {"MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "PYTHON", "PYTEST_ARGS", "TEST_PROCESSES"}
    inherited = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env=inherited | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=100,
    )


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one sentence of a failed make, without make's own last line."""
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if not line.startswith(("make:", "Installing into"))]
    assert len(said) == 1, done.stderr
    return said[0]


def program(folder: Path, text: str) -> str:
    """Write a program that passes for a Python, and return its path."""
    path = folder / "python-for-a-test"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_help_lists_every_target(clone):
    done = make(clone, "help")
    assert done.returncode == 0, done.stderr
    listed = {line.split("  ")[1] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert listed >= {*SINGLE, "help", *(f"{name}-dev (-demo, -test)" for name in FOR_EACH_ENVIRONMENT)}
    assert make(clone).stdout == done.stdout


def test_every_target_runs_its_command_in_its_environment(installed):
    targets = [f"{name}-{environment}" for name in FOR_EACH_ENVIRONMENT for environment in ENVIRONMENTS]
    for target in targets:
        name, _, environment = target.rpartition("-")
        done = make(installed, "-n", target)
        assert done.stdout == f"exec .venv/bin/python -m {FOR_EACH_ENVIRONMENT[name]} --env {environment}\n"
    assert "app demo --once --env demo" in make(installed, "-n", "demo-once").stdout
    for target, marked in {"test": ' -m "not slow"', "test-slow": " -m slow", "test-all": ""}.items():
        assert f"pytest -n 4{marked} -k cancel\n" in make(installed, "-n", target, "PYTEST_ARGS=-k cancel").stdout


def test_nothing_is_installed_when_venv_is_newer_than_its_sources(installed):
    assert "venv.sh" not in make(installed, "-n", "demo", "test").stdout


@pytest.mark.parametrize("source", SOURCES)
def test_an_edited_source_brings_venv_up_to_date(installed, source):
    (installed / source).touch()
    assert "venv.sh run" in make(installed, "-n", "demo").stdout
    assert "venv.sh dev" in make(installed, "-n", "lint").stdout


def test_a_venv_whose_python_is_gone_is_made_anew(installed):
    python = installed / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python3")
    assert "venv.sh run" in make(installed, "-n", "demo").stdout


def test_a_machine_without_python_is_told_to_install_it(clone, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in TOOLS:
        (tools / tool).symlink_to(shutil.which(tool))
    said = sentence(make(clone, "demo", PATH=str(tools)))
    assert said.startswith("Genonaut needs Python 3.11 or newer, and there is no Python on this machine.")
    assert "apt install python3" in said


def test_a_python_that_is_too_old_is_named(clone, tmp_path):
    old = program(tmp_path, 'case "$2" in *print*) echo 3.9.18 ;; *) exit 1 ;; esac')
    assert "is Python 3.9.18; Genonaut needs Python 3.11 or newer" in sentence(make(clone, "demo", f"PYTHON={old}"))


def test_a_python_that_is_none_is_named(clone):
    assert "PYTHON=/nowhere/python" in sentence(make(clone, "demo", "PYTHON=/nowhere/python"))


def test_missing_venv_modules_are_named_with_their_package(clone, tmp_path):
    without = program(tmp_path, f'case "$*" in *ensurepip*) exit 1 ;; esac\nexec {sys.executable} "$@"')
    said = sentence(make(clone, "demo", f"PYTHON={without}"))
    assert "venv and ensurepip are missing" in said
    assert f"apt install python{sys.version_info.major}.{sys.version_info.minor}-venv" in said
    assert not (clone / ".venv").exists()


@pytest.fixture
def no_index() -> dict[str, str]:
    """What keeps pip from every index."""
    (port,) = free_ports(1)
    away = {"PIP_INDEX_URL": f"http://127.0.0.1:{port}/simple", "PIP_RETRIES": "1", "PIP_CONFIG_FILE": os.devnull}
    return away | {"PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": "", "PIP_NO_CACHE_DIR": "1"}


@pytest.mark.parametrize("target", ["constraints", "audit"])
def test_without_an_index_pins_stay_as_they_are_and_nothing_is_known_of_them(clone, no_index, target):
    (clone / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "pins.py", clone / "tests")
    before = {path.name: path.read_bytes() for path in (clone / "env").iterdir() if path.is_file()}
    done = make(clone, target, f"PYTHON={sys.executable}", **no_index)
    assert "is there a network, and does the package index answer?" in done.stderr
    assert f"{target}] Error 3" in done.stderr
    assert {path.name: path.read_bytes() for path in (clone / "env").iterdir() if path.is_file()} == before
    assert not (clone / ".venv").exists()


def test_an_index_that_is_away_is_one_sentence_and_the_half_venv_does_not_count(clone, no_index):
    said = sentence(make(clone, "demo", f"PYTHON={sys.executable}", **no_index))
    assert said.startswith("Installing failed because the package index cannot be reached")
    log = clone / re.search(r"is in (env/\S+)\.$", said)[1]
    assert "Traceback" in log.read_text() or "ERROR" in log.read_text()
    assert "venv.sh run" in make(clone, "-n", "demo").stdout
