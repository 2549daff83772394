"""Static files of the monitor: versions in addresses, cache headers, and script modules whose imports resolve."""

from __future__ import annotations

import re
from graphlib import TopologicalSorter
from pathlib import Path
from urllib.parse import urljoin

from integration.monitor_fixtures import read

import app.monitor
from app.monitor.assets import Assets, without_comments

FOLDER = Path(app.monitor.__file__).parent / "static"
KEPT = "public, max-age=31536000, immutable"
MODULES = sorted(path.name for path in FOLDER.glob("*.js") if path.name != "theme.js")
MAX_LINES = 249


def imports(source: str) -> dict[str, list[str]]:
    """Return the imported names by the relative address of the module that they come from."""
    found = re.findall(r'^import \{ ([^}]+) \} from "([^"]+)";$', source, re.MULTILINE)
    assert len(found) == len(re.findall(r"\bimport\b", source)), "an import that this test does not understand"
    return {address: names.split(", ") for names, address in found}


def source_of(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


async def test_a_page_loads_every_module_at_once_and_browsers_keep_them(client):
    page = await read(client, "/monitor/")
    named = [each["src"] for each in page.all("script") if each.get("type") == "module"]
    assert sorted(address.rpartition("/")[2] for address in named) == MODULES
    for address in named:
        answer = await client.get(address)
        assert (answer.status, answer.content_type) == (200, "text/javascript"), address
        assert answer.headers["Cache-Control"] == KEPT
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        # Imports have the same addresses as the page's own scripts, so no module is loaded or run twice.
        assert {urljoin(address, each) for each in imports(await answer.text())} <= set(named), address


def test_every_imported_name_is_exported_and_used():
    for name in MODULES:
        source = source_of(name)
        for address, names in imports(source).items():
            exported = set(re.findall(r"^export (?:async )?(?:function|const) (\w+)", source_of(address), re.MULTILINE))
            assert set(names) <= exported, f"{name} imports from {address}"
            assert [each for each in names if len(re.findall(rf"\b{each}\b", source)) < 2] == [], name


def test_modules_are_short_and_import_one_another_without_circles():
    graph = {name: [address.removeprefix("./") for address in imports(source_of(name))] for name in MODULES}
    order = list(TopologicalSorter(graph).static_order())
    assert order[-1] == "monitor.js"
    assert {name for name in MODULES if len(source_of(name).splitlines()) > MAX_LINES} == set()


def test_styles_and_scripts_are_at_most_30_kb_together():
    served = Assets(FOLDER)
    files = [path.name for path in FOLDER.iterdir() if path.suffix in (".css", ".js")]
    assert sum(len(served.get(name).zipped) for name in files) <= 30_000


def test_a_source_loses_comments_and_blanks_and_nothing_else():
    source = b"/* Said\n   in two lines. */\n.a { b: c; }\n"
    assert without_comments(source) == source
    assert without_comments(b"// Why.\n\n  /** How. */\n  call(`//`);  // here\n") == b"call(`//`);  // here\n"
    assert (
        without_comments(b"/* One */ .a {\n  b: url(//c); } /* two */\n")
        == b"/* One */ .a {\nb: url(//c); } /* two */\n"
    )
    for kept in (b"a = `\n  // no comment\n`;\n", b"a = 'b\\\n  c';\n"):
        assert without_comments(kept) == kept
    # None of ours is left as it is.
    for path in FOLDER.glob("*.[cj]s*"):
        assert len(without_comments(path.read_bytes())) < path.stat().st_size, path.name


async def test_only_the_present_version_of_a_file_is_kept_for_ever(client):
    page = await read(client, "/monitor/")
    address = page.all("script")[0]["src"]
    answer = await client.get(address)
    assert answer.headers["Cache-Control"] == KEPT
    again = await client.get(address, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status, await again.read()) == (304, b"")
    # A page that was made before an update asks for these.
    for earlier in ("/monitor/static/0123456789abcdef/theme.js", "/monitor/static/theme.js?v=0123456789abcdef"):
        old = await client.get(earlier)
        assert (old.status, old.headers["Cache-Control"]) == (200, "no-cache")
        assert await old.read() == await answer.read()
    assert (await client.get("/monitor/static/../routes.py")).status == 404
    assert (await client.get(address.replace("theme.js", "none.js"))).status == 404


def test_the_version_changes_with_any_file(tmp_path):
    (tmp_path / "a.js").write_text("1", encoding="utf-8")
    (tmp_path / "b.css").write_text("1", encoding="utf-8")
    versions = [Assets(tmp_path).version]
    (tmp_path / "b.css").write_text("2", encoding="utf-8")
    versions.append(Assets(tmp_path).version)
    (tmp_path / "b.css").rename(tmp_path / "c.css")
    versions.append(Assets(tmp_path).version)
    assert len(set(versions)) == len(versions)
