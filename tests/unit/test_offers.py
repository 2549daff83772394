"""What a backend says that it offers, read class by class: no description costs more than it may."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain import offers
from app.domain.catalog import read_catalog
from app.domain.offers import MOST_MARKS, MOST_OF_CLASS, read_offer

LOADER: dict[str, Any] = {
    "input": {
        "required": {"ckpt_name": [["a.safetensors", "日本.safetensors"], {"tooltip": "what to load"}]},
        "optional": {"seed": ["INT", {"default": 0, "min": 0, "max": 2**64 - 1}]},
    },
    "output": ["MODEL", ["a", "b"]],
    "output_node": False,
    "description": "loads",
}

if TYPE_CHECKING:
    from collections.abc import Callable


def described(**nodes: Any) -> bytes:
    return json.dumps({"CheckpointLoaderSimple": LOADER} | nodes).encode()


def test_what_is_kept_reads_as_what_came() -> None:
    raw = described(SaveImage={"input": {}, "output": [], "output_node": True})
    offer = read_offer(raw)
    assert offer.catalog == read_catalog(json.loads(raw))
    assert read_offer(offer.described) == offer
    assert offer.left_out == 0
    assert b"what to load" not in offer.described
    assert offer.catalog.checkpoints == ("a.safetensors", "日本.safetensors")
    assert read_offer(b" { } ").catalog.nodes == {}
    assert read_offer(json.dumps(json.loads(raw), indent=2).encode()) == offer


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"7",
        b"null",
        b"{",
        b'{"a"',
        b'{"a":',
        b'{"a":{}',
        b'{"a":{},',
        b'{"a" {}}',
        b"{7:{}}",
        b"{}x",
        b"\xff\xfe",
        b'{"a":' + b"[" * 100_000,
        b"<html></html>",
        b"{" + b"," * (MOST_MARKS + 1) + b"}",
    ],
    ids=lambda raw: repr(raw[:12]),
)
def test_what_is_no_description_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="it "):
        read_offer(raw)


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "node",
    [
        lambda: {"input": {"required": {"a": [[str(number) for number in range(MOST_OF_CLASS)]]}}},
        lambda: {"input": {"required": {f"i{number}": ["INT"] for number in range(MOST_OF_CLASS // 2)}}},
        lambda: ["INT"],
        lambda: None,
        lambda: 7,
    ],
    ids=["choices", "inputs", "list", "null", "number"],
)
def test_a_class_with_too_much_in_it_is_left_out_and_the_others_stay(node: Callable[[], Any]) -> None:
    offer = read_offer(described(Bad=node()))
    assert offer.left_out == 1
    assert list(offer.catalog.nodes) == ["CheckpointLoaderSimple"]


@pytest.mark.parametrize("name", ["x" * 301, "a\0b", "\ud800"])
def test_a_class_that_nobody_can_name_is_left_out(name: str) -> None:
    offer = read_offer(described(**{name: LOADER}))
    assert list(offer.catalog.nodes) == ["CheckpointLoaderSimple"]


def test_what_cannot_be_used_of_a_class_is_left_out_and_the_rest_stays() -> None:
    values = ["fine", "x" * 2001, "a\0", "\ud800", float("nan"), float("inf"), 2**80, nested(30), 1]
    offer = read_offer(described(Odd={"input": {"required": {"a": [values], "b\0": ["INT"]}}, "deep": nested(30)}))
    spec = offer.catalog.nodes["Odd"].inputs
    assert list(spec) == ["a"]
    assert spec["a"].choices is not None
    assert [each for each in spec["a"].choices if not isinstance(each, dict | type(None))] == ["fine", 1]
    json.dumps(json.loads(offer.described), allow_nan=False)


def test_too_many_classes_are_no_offer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offers, "MOST_CLASSES", 10)
    with pytest.raises(ValueError, match="more than a server can offer"):
        read_offer(described(**{f"Node{number}": {} for number in range(10)}))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_any_object_can_be_read_and_read_again(value: dict[str, Any]) -> None:
    offer = read_offer(json.dumps(value).encode())
    assert read_offer(offer.described).described == offer.described
