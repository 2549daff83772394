"""Texts of other people's servers, before they are kept and shown."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.text import MAX_CHARS, clean


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ('File "/comfyui/custom_nodes/x.py", line 3', 'File "…/x.py", line 3'),
        ("[Errno 2] No such file or directory: '/home/bob/models/a.safetensors'", None),
        (r"cannot open C:\Users\bob\models\a.safetensors", r"cannot open …/a.safetensors"),
        (r"'C:\Program Files\Comfy UI\nodes.py' is missing", "'…/nodes.py' is missing"),
        (repr(r"C:\Users\bob\x.py"), "'…/x.py'"),
        (r"\\server\share\x.py is locked", "…/x.py is locked"),
        ("error:/home/bob/x.py", "error:…/x.py"),
        ("file:///home/bob/x.py", "…/x.py"),
        ("/home/bob/models/", "…/"),
    ],
)
def test_folders_of_the_server_are_not_shown(said: str, shown: str | None) -> None:
    cleaned = clean(said)
    assert "bob" not in cleaned
    assert shown is None or cleaned == shown


@pytest.mark.parametrize(
    "said",
    [
        "https://example.org/a/b/c",
        "http://127.0.0.1:8188/view/x/y",
        "and/or/both, 1/2/3, loras/sub/x.safetensors",
        "Value 3000 bigger than max of 2048",
        "not / a / path",
        "",
    ],
)
def test_what_is_no_path_stays_as_it_is(said: str) -> None:
    assert clean(said) == said


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_whatever_comes_can_be_kept_by_postgresql(said: str) -> None:
    cleaned = clean(said)
    assert "\0" not in cleaned
    assert len(cleaned) <= MAX_CHARS
    cleaned.encode()
    json.dumps(cleaned)


def test_nul_and_lone_surrogates_go_and_the_rest_stays() -> None:
    assert clean("a\0b \ud800 日本語 🎨") == "ab ? 日本語 🎨"


def test_a_long_text_is_cut_and_says_so() -> None:
    assert clean("x" * 5000, 100) == "x" * 99 + "…"
    assert clean("x" * 100, 100) == "x" * 100


@pytest.mark.parametrize("piece", ["/home/u", "\\", "/", "'/", '"/a b', "C:\\", "\0", "…/"])
def test_megabytes_take_no_time(piece: str) -> None:
    # What grows with the square of the length would take hours: the time-out of all tests ends it.
    clean(piece * (8 * 2**20 // len(piece)))


def test_what_is_no_text_is_shown_as_one() -> None:
    assert clean(ValueError("bad")) == "bad"
    assert clean(None) == "None"
