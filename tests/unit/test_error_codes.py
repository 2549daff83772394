"""The manual lists the codes with which attempts end, all of them and no others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import worker.comfyui.client  # noqa: F401  # it has one of its own
from app.domain.errors import AttemptFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "app" / "manual" / "failures.md"


def codes(kind: type[AttemptFailed]) -> Iterator[str]:
    yield kind.code
    for below in kind.__subclasses__():
        yield from codes(below)


def test_the_manual_lists_every_code_with_which_an_attempt_ends() -> None:
    table = PAGE.read_text().partition("| `error_code` |")[2].partition("\n\n")[0]
    cells = [row.split("|")[1] for row in table.splitlines()[2:]]
    assert {code for cell in cells for code in re.findall(r"`(\w+)`", cell)} == set(codes(AttemptFailed))
