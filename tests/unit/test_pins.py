"""What is pinned: all that setup.cfg asks for and all that this needs, each file by its hash, and nothing more."""

from __future__ import annotations

import json
import re
from importlib import metadata
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import pins
from tests.pins import BUILD, DEV, FILES, RUN, SERVICE, TOOLS, Pin, Pinned

if TYPE_CHECKING:
    from pathlib import Path

TEXT = f"""# Head.
async-timeout==5.0.1 ; python_full_version < '3.11.3' \\
    --hash=sha256:{"a" * 64} \\
    --hash=sha256:{"b" * 64}
six==1.17.0 \\
    --hash=sha256:{"c" * 64}
"""


def pinned(*files: Pinned) -> list[Pin]:
    return [pin for file in files for pin in pins.read(file.path.read_text(encoding="utf-8"))]


def applies(pin: Pin) -> bool:
    return not pin.marker or Requirement(f"{pin.name} ; {pin.marker}").marker.evaluate()


def needed(asked: list[str]) -> set[str]:
    """Return what these requirements need here, themselves included, as the installed packages say."""
    found: set[tuple[str, str]] = set()
    left = [(Requirement(text), "") for text in asked]
    while left:
        requirement, extra = left.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for each in {"", *requirement.extras} - {extra for known, extra in found if known == name}:
            found.add((name, each))
            left += [(Requirement(text), each) for text in metadata.requires(name) or ()]
    return {name for name, _ in found}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_file_is_as_the_command_writes_it(file: Pinned) -> None:
    text = file.path.read_text(encoding="utf-8")
    # Whose index it was made with is nobody's concern: no address stands in it.
    assert pins.written(file.head, pins.read(text)) == text
    assert pins.for_our_systems(pins.read(text)) == pins.read(text)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_requirement_is_pinned_within_its_bounds(file: Pinned) -> None:
    found = {pin.name: pin for pin in pinned(*{RUN, file} - ({RUN} if file is TOOLS else set()))}
    for name in file.sets:
        for text in pins.requirements()[name]:
            requirement = Requirement(text)
            pin = found[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(pin.version, prereleases=True), f"{text} is pinned to {pin.version}"


def test_each_pin_has_hashes() -> None:
    for pin in pinned(*FILES):
        assert pin.hashes, f"{pin.name} has no hash"


def test_all_sets_of_setup_cfg_are_pinned() -> None:
    assert {name for file in FILES for name in file.sets} == pins.requirements().keys()
    assert {SERVICE, BUILD} <= pins.requirements().keys()


def test_what_is_pinned_is_what_is_needed() -> None:
    asked = pins.requirements()
    for files in ((RUN,), (RUN, DEV)):
        wanted = needed([text for file in files for name in file.sets if name != BUILD for text in asked[name]])
        building = {canonicalize_name(Requirement(text).name) for text in asked[BUILD]}
        assert {pin.name for pin in pinned(*files) if applies(pin)} == wanted | building


def test_the_versions_are_those_that_are_tested() -> None:
    for pin in pinned(RUN, DEV):
        if applies(pin) and pin.name != "setuptools":
            assert metadata.version(pin.name) == pin.version, "make installs what is pinned"


def test_what_both_need_is_pinned_once() -> None:
    assert not {pin.name for pin in pinned(RUN)} & {pin.name for pin in pinned(DEV)}


def test_pins_are_read_as_they_are_written() -> None:
    found = pins.read(TEXT)
    assert [(pin.name, pin.version, pin.marker, len(pin.hashes)) for pin in found] == [
        ("async-timeout", "5.0.1", "python_full_version < '3.11.3'", 2),
        ("six", "1.17.0", "", 1),
    ]
    assert pins.written("# Head.", reversed(found)) == TEXT


@pytest.mark.parametrize("line", ["--index-url https://example.com/simple", "six==1.17", "six>=1", "-e .", "six"])
def test_a_line_that_is_no_pin_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(line)):
        pins.read(f"{TEXT}{line}\n")


def test_what_windows_alone_needs_is_left_out() -> None:
    markers = {
        "": True,
        "sys_platform == 'win32'": False,
        "python_full_version < '3.14' and sys_platform == 'win32'": False,
        "sys_platform != 'win32'": True,
        "sys_platform == 'darwin' or sys_platform == 'win32'": True,
    }
    for marker, kept in markers.items():
        pin = Pin("six", "1.17.0", marker, ("sha256:a",))
        assert pins.for_our_systems([pin]) == ([pin] if kept else []), marker


def tool(folder: Path, name: str, text: str) -> None:
    """Put a program in a tool's place that says this, and fails."""
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\nexit 1\n")
    path.chmod(0o755)


def test_what_is_known_of_a_version_is_told_in_a_line(tmp_path: Path) -> None:
    of_two = [{"id": "PYSEC-1", "fix_versions": ["1.2", "2.0"]}, {"id": "CVE-2", "fix_versions": []}]
    told = {"dependencies": [{"name": "six", "version": "1.0", "vulns": of_two}, {"name": "arq", "skip_reason": "x"}]}
    tool(tmp_path, "pip-audit", f"echo '{json.dumps(told)}'; echo Found 2 known vulnerabilities >&2")
    assert pins.vulnerabilities(tmp_path, [RUN.path]) == [
        "six 1.0: PYSEC-1, fixed in 1.2, 2.0",
        "six 1.0: CVE-2, fixed in no version yet",
    ]


def test_an_audit_that_gets_no_answer_is_none(tmp_path: Path) -> None:
    tool(tmp_path, "pip-audit", "echo 'ERROR:pip_audit._cli:connection refused' >&2")
    with pytest.raises(pins.ToolFailed, match="connection refused"):
        pins.vulnerabilities(tmp_path, [RUN.path])
