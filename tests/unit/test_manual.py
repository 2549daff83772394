"""README and manual: pages of a readable length, links that lead somewhere, and a table of settings that is true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from app.settings import Settings
from tests.settings_table import PAGE, rewritten

ROOT: Final = Path(__file__).parents[2]
README: Final = ROOT / "README.md"
MANUAL: Final = ROOT / "app" / "manual"
PAGES: Final = sorted(MANUAL.glob("*.md"))
CODE: Final = sorted(
    path for folder in ("app", "worker", "migrations", "tests") for path in (ROOT / folder).rglob("*.py")
)
A_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    """Return a page without its blocks of code, whose brackets and # are no links and headings."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [README, ROOT / "CHANGELOG.md", *PAGES], ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in A_LINK.findall(prose(page)):
        if link.startswith(("http:", "https:")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_at_most_300_lines_and_one_title(page: Path) -> None:
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 300
    assert len(re.findall(r"^# ", prose(page), re.MULTILINE)) == 1


def test_the_readme_has_at_most_200_lines() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200


def test_the_index_leads_to_every_page_once() -> None:
    links = A_LINK.findall(prose(MANUAL / "index.md"))
    assert sorted(link for link in links if "/" not in link) == [page.name for page in PAGES if page.stem != "index"]


def test_the_table_of_settings_is_that_of_the_code() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == rewritten(page), "run `make settings-table`"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_has_a_description_and_a_row(name: str) -> None:
    assert Settings.model_fields[name].description
    assert PAGE.read_text(encoding="utf-8").count(f"| `{name.upper()}` |") == 1


def test_comments_in_the_code_name_pages_and_headings_of_the_manual() -> None:
    for path in CODE:
        text = path.read_text(encoding="utf-8")
        for name, heading in re.findall(r'(?:\(|manual, )([a-z]+\.md)(?:, "([^"\n]+)")?', text):
            page = (MANUAL / name).read_text(encoding="utf-8")
            assert not heading or f"\n## {heading}\n" in page, f"{path}: {heading}"


def test_no_comment_names_a_page_outside_the_repository() -> None:
    outside = re.compile(
        r'\b(?:COMFYUI|DESIGN|STYLE|ARQ), "|\b(?:COMFYUI|DESIGN|API|STYLE|ARQ|SCHEDULING|MONITOR)(?:\.md)?,? section \d'
    )
    assert [str(path) for path in CODE if outside.search(path.read_text(encoding="utf-8"))] == []
