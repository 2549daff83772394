"""Models of several backends in one list: each name once, in a stable order, with the backends where it is."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from samples import standin_catalog

from app.domain.catalog import read_catalog
from app.domain.model_lists import CHOSEN_IN, MODEL_KINDS, Offering, alike, model_list


def offering(*backends: str, **choices: list[Any]) -> Offering:
    """Return what backends offer that have these names of each kind."""
    described = {CHOSEN_IN[kind][0]: {"input": {"required": {}}} for kind in MODEL_KINDS if kind in choices}
    for kind in MODEL_KINDS:
        if kind in choices:
            node_class, name = CHOSEN_IN[kind]
            described[node_class]["input"]["required"][name] = [choices[kind]]
    return Offering(backends, read_catalog(described))


def test_a_name_stands_once_with_all_its_backends() -> None:
    a = offering("c", "a", loras=["x.safetensors", "y.safetensors", "x.safetensors"])
    b = offering("b", loras=["y.safetensors"])
    wanted = [("x.safetensors", ["a", "c"]), ("y.safetensors", ["a", "b", "c"])]
    assert model_list("loras", [a, b]) == model_list("loras", [b, a]) == wanted


def test_names_are_sorted_as_people_look_for_them_and_always_the_same() -> None:
    one = offering("a", checkpoints=["b", "A", "a", "B", "sub/a", "é"])
    assert [name for name, _ in model_list("checkpoints", [one])] == ["A", "a", "B", "b", "sub/a", "é"]


def test_each_kind_is_read_from_its_own_class() -> None:
    names = {kind: [f"{kind}-1"] for kind in MODEL_KINDS}
    found = offering("a", **names)
    assert {kind: model_list(kind, [found]) for kind in MODEL_KINDS} == {
        kind: [(f"{kind}-1", ["a"])] for kind in MODEL_KINDS
    }
    assert CHOSEN_IN.keys() == set(MODEL_KINDS)


def test_what_no_backend_has_is_an_empty_list() -> None:
    assert model_list("upscalers", [offering("a", loras=["x"])]) == model_list("loras", []) == []
    standin = Offering(("a",), standin_catalog())
    assert model_list("samplers", [standin])
    assert ("add_detail.safetensors", ["a"]) in model_list("loras", [standin])


def test_backends_of_the_same_offer_are_read_once() -> None:
    assert alike([("a", "1"), ("b", "2"), ("c", "1")]) == {"1": ("a", "c"), "2": ("b",)}


NAMES = st.lists(st.sampled_from(["a", "A", "b", "ß", "SS", "é", "", " "]), max_size=6)


@given(st.lists(NAMES, max_size=4))
def test_nothing_is_lost_and_nothing_is_added(lists: list[list[str]]) -> None:
    found = model_list("vaes", [offering(str(at), vaes=names) for at, names in enumerate(lists)])
    assert {(name, backend) for name, backends in found for backend in backends} == {
        (name, str(at)) for at, names in enumerate(lists) for name in names
    }
    assert len({name for name, _ in found}) == len(found)
    assert all(backends == sorted(set(backends)) for _, backends in found)
