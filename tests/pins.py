"""`make constraints` and `make audit`: what setup.cfg asks for in exact versions, and what is known of these.

`python -m tests.pins constraints [ARGUMENTS OF uv]` or `audit`. It runs with any Python that is new enough and nothing
installed: the tools that it calls are installed by their own pins, for the time of the call.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ROOT: Final = Path(__file__).parents[1]
BUILD: Final = "build"
"""The set of what builds the package: it stands in pyproject.toml."""
SERVICE: Final = "service"
"""The set of what the package itself needs: `install_requires`."""
UNKNOWN: Final = 3
"""Exit code when a tool could not do its work, as without a network; 1 means that something is known of a package."""
_PIN: Final = re.compile(r"([a-z0-9.-]+)==([^ ;\\]+)(?: ; ([^\\]+?))? \\?")
_HASH: Final = re.compile(r"    --hash=(sha256:[0-9a-f]{64})(?: \\)?")
_WINDOWS: Final = re.compile(r"(sys_platform == 'win32'|os_name == 'nt'|platform_system == 'Windows')")


class ToolFailed(Exception):
    """A tool could not do its work; the message names it, with what it said last."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """One of the files."""

    name: str
    sets: tuple[str, ...]
    """SERVICE, BUILD, or extras of setup.cfg."""
    head: str

    @property
    def path(self) -> Path:
        """Where it is."""
        return ROOT / "env" / self.name


RUN: Final = Pinned(
    "constraints.txt",
    (SERVICE, BUILD, "embedded"),
    "# What the service needs, and what builds it, in exact versions: `make constraints` writes this file.",
)
DEV: Final = Pinned(
    "constraints-dev.txt",
    ("test", "lint"),
    "# What tests and linters need besides constraints.txt: `make constraints` writes this file.",
)
TOOLS: Final = Pinned(
    "constraints-tools.txt",
    ("pins",),
    "# What `make constraints` and `make audit` need, which is never in .venv: `make constraints` writes this file.",
)
FILES: Final = (RUN, DEV, TOOLS)


@dataclass(frozen=True, slots=True)
class Pin:
    """One package in one version."""

    name: str
    version: str
    marker: str
    """Where it is needed; empty for everywhere."""
    hashes: tuple[str, ...]
    """Of every file that was published of this version."""


def requirements() -> dict[str, list[str]]:
    """Return what is asked for, by set."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    sets = {SERVICE: config["options"]["install_requires"], **config["options.extras_require"]}
    build: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    return {name: [line for line in text.splitlines() if line] for name, text in sets.items()} | {BUILD: build}


def read(text: str) -> list[Pin]:
    """Return the pins of a file; raises `ValueError` for a line that is none of one."""
    pins: list[Pin] = []
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if found := _HASH.fullmatch(line):
            last = pins[-1]
            pins[-1] = Pin(last.name, last.version, last.marker, (*last.hashes, found[1]))
        elif found := _PIN.fullmatch(line):
            pins.append(Pin(found[1], found[2], found[3] or "", ()))
        else:
            raise ValueError(f"this is no pin with hashes: {line!r}")
    return pins


def written(head: str, pins: Iterable[Pin]) -> str:
    """Return the text of a file."""
    lines = [head]
    for pin in sorted(pins, key=lambda pin: (pin.name, pin.version, pin.marker)):
        marker = f" ; {pin.marker}" if pin.marker else ""
        hashes = (f"    --hash={each}" for each in sorted(pin.hashes))
        lines.append(" \\\n".join([f"{pin.name}=={pin.version}{marker}", *hashes]))
    return "\n".join(lines) + "\n"


def for_our_systems(pins: Iterable[Pin]) -> list[Pin]:
    """Return the pins without those that Windows alone needs, where the service does not run."""
    return [pin for pin in pins if " or " in pin.marker or not _WINDOWS.search(pin.marker)]


def beyond(pins: Iterable[Pin], known: Sequence[Pin]) -> list[Pin]:
    """Return the pins that are not among those that are known."""
    return [pin for pin in pins if pin not in known]


def renew(arguments: Sequence[str]) -> int:
    """Write the files anew; a version stays as it is where setup.cfg lets it, unless `arguments` ask for others."""
    asked = requirements()
    with _tools() as folder:
        known = _text(RUN) + _text(DEV)
        both = _compiled(folder, _of(asked, *RUN.sets, *DEV.sets), known, arguments)
        run = _compiled(folder, _of(asked, *RUN.sets), written("", both), ())
        made = {RUN: run, DEV: beyond(both, run)}
        made[TOOLS] = _compiled(folder, _of(asked, *TOOLS.sets), _text(TOOLS), arguments)
    for file, pins in made.items():
        file.path.write_text(written(file.head, pins), encoding="utf-8")
        print(f"{file.path.relative_to(ROOT)}: {len(pins)} packages")
    return 0


def audit() -> int:
    """Tell which vulnerabilities are known of the pinned versions; return 1 if there are any."""
    found = []
    with _tools() as folder:
        for files in ((RUN, DEV), (TOOLS,)):
            found += vulnerabilities(folder, [file.path for file in files])
    for line in found:
        print(line)
    count = sum(len(read(_text(file))) for file in FILES)
    print(f"{len(found)} known vulnerabilities in {count} packages" if found else f"none known in {count} packages")
    return 1 if found else 0


def _of(asked: dict[str, list[str]], *sets: str) -> list[str]:
    return [requirement for name in sets for requirement in asked[name]]


def _text(file: Pinned) -> str:
    return file.path.read_text(encoding="utf-8") if file.path.exists() else ""


@contextlib.contextmanager
def _tools() -> Iterator[Path]:
    """Yield a folder in whose bin/ the tools are, for a while."""
    with tempfile.TemporaryDirectory(prefix="genonaut-tools-") as name:
        folder = Path(name)
        # Without pins, as when there is no file yet, by their names.
        wanted = ["--require-hashes", "-r", str(TOOLS.path)] if TOOLS.path.exists() else requirements()["pins"]
        _say("installing uv and pip-audit for this once …")
        _called([sys.executable, "-m", "venv", str(folder)])
        python = str(folder / "bin" / "python")
        _called([python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *wanted])
        yield folder


def _compiled(folder: Path, wanted: Sequence[str], known: str, arguments: Sequence[str]) -> list[Pin]:
    """Return pins of all that is wanted and of what that needs, the known ones where they will do."""
    asked, pins = folder / "asked.txt", folder / "pins.txt"
    asked.write_text("".join(f"{line}\n" for line in wanted))
    # uv prefers what stands in the file that it is to write.
    pins.write_text(known)
    command = [str(folder / "bin" / "uv"), "pip", "compile", "--quiet", "--universal", "--python-version", _oldest()]
    command += ["--python", sys.executable, "--generate-hashes", "--no-annotate", "--no-header", "--no-config"]
    command += ["--system-certs"]
    command += ["--cache-dir", str(folder / "cache"), "--output-file", str(pins), *arguments, str(asked)]
    _say(f"looking for versions of {len(wanted)} requirements …")
    # Why there is no solution takes more than a line to tell.
    if subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode:
        raise ToolFailed("uv, see above")
    return for_our_systems(read(pins.read_text()))


def _oldest() -> str:
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config["options"]["python_requires"].removeprefix(">=")


def vulnerabilities(folder: Path, files: Sequence[Path]) -> list[str]:
    """Return what is known of the pins of these files that apply here, a line each."""
    command = [str(folder / "bin" / "pip-audit"), "--require-hashes", "--disable-pip", "--progress-spinner", "off"]
    command += ["--format", "json", "--cache-dir", str(folder / "audited")]
    for path in files:
        command += ["--requirement", str(path)]
    _say(f"asking about {' and '.join(path.name for path in files)} …")
    # As uv and pip do, it is to trust whom this machine trusts, be it a proxy's certificate.
    paths = ssl.get_default_verify_paths()
    trusted = {"REQUESTS_CA_BUNDLE": found} if (found := paths.cafile or paths.capath) else {}
    done = subprocess.run(
        command, env=trusted | os.environ, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    try:
        # It ends with 1 when it has found something, and when it could not ask; it says what it found in one case only.
        told: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise ToolFailed(f"pip-audit: {_last_line(done.stderr)}") from error
    return [
        f"{each['name']} {each['version']}: {one['id']}, fixed in {', '.join(one['fix_versions']) or 'no version yet'}"
        for each in told["dependencies"]
        for one in each.get("vulns", ())
    ]


def _called(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise ToolFailed(f"{' '.join(command[:3])}: {_last_line(done.stderr or done.stdout)}")


def _last_line(text: str) -> str:
    lines = [line.strip(" ╰─▶×│") for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return (errors or lines or ["it said nothing"])[-1]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Do what the command line asks for, and return the exit code."""
    what = arguments[0] if arguments else ""
    try:
        if what == "constraints":
            return renew(arguments[1:])
        if what == "audit":
            return audit()
    except ToolFailed as failed:
        means = "Nothing was written" if what == "constraints" else "It is not known what is wrong with the packages"
        _say(f"{means}: is there a network, and does the package index answer? The last that was said: {failed}")
        return UNKNOWN
    _say("usage: python -m tests.pins constraints|audit")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
