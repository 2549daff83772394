"""What every template of the page keeps to."""

from __future__ import annotations

import re

from app.settings import ROOT

FOLDER = ROOT / "app" / "monitor"
_ADDRESS = re.compile(r'(?<=\s)(?:href|src|action|formaction|poster)="(?!\{\{ root \}\}|#)[^"]*"')


def test_every_address_in_a_template_begins_with_what_stands_before_all_of_them():
    bare = [
        f"{path.name}: {found}"
        for path in sorted((FOLDER / "templates").glob("*.html"))
        for found in _ADDRESS.findall(path.read_text(encoding="utf-8"))
    ]
    assert bare == []


def test_every_address_in_a_script_does_so_too():
    # An address is a text that begins with a slash and a letter, or has one after a host.
    bare = re.compile(r"[\"'`](?:\$\{location\.\w+\})?/[a-z]\w*|\.host\}/")
    found = [
        f"{path.name}: {match}"
        for path in sorted((FOLDER / "static").glob("*.js"))
        for match in bare.findall(re.sub(r"^\s*//.*$", "", path.read_text(encoding="utf-8"), flags=re.M))
    ]
    assert found == []
