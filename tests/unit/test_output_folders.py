"""A folder of each run's own, and which graphs run alone because they cannot be given one."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.catalog import Catalog, read_catalog
from app.domain.output_folders import RUN, own_folder, own_path, random_file, separated

FOLDER = "genonaut/17/0b1e"


def described(*, output: bool, **inputs: Any) -> dict[str, Any]:
    """A node class as `/object_info` has it."""
    return {"input": {"required": inputs}, "output": [], "output_node": output}


CATALOG = read_catalog(
    {
        "SaveImage": described(output=True, images=["IMAGE"], filename_prefix=["STRING", {"default": "ComfyUI"}]),
        "SaveAudio": described(output=True, audio=["AUDIO"], filename_prefix=["STRING", {}]),
        "LoadLatest": described(output=False, filename_prefix=["STRING", {}]),
        "FixedName": described(output=True, images=["IMAGE"], path=["STRING", {}]),
        "ChosenPrefix": described(output=True, images=["IMAGE"], filename_prefix=[["a", "b"]]),
        "PreviewImage": described(output=True, images=["IMAGE"]),
        "ETN_SendImageWebSocket": described(output=True, images=["IMAGE"]),
        "Text": described(output=False, value=["STRING", {}]),
    }
)


def sent(
    graph: dict[str, Any], catalog: Catalog = CATALOG, careless: frozenset[str] = frozenset()
) -> tuple[dict[str, Any], bool]:
    """The inputs of each node as they are sent, and whether the graph runs alone."""
    made = separated(graph, catalog, FOLDER, "run-1", careless)
    return {key: node["inputs"] for key, node in made.graph.items()}, made.alone


def saver(class_type: str = "SaveImage", **inputs: Any) -> dict[str, Any]:
    return {"9": {"class_type": class_type, "inputs": inputs}}


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        ("image", "image"),
        ("my folder/image", "image"),
        ("../../etc/passwd", "passwd"),
        ("..", "output"),
        ("C:\\temp\\x", "x"),
        ("%date:yyyy-MM-dd%/%KSampler.seed%", "KSampler_seed"),
        ("%date%", "date"),
        ("夕焼け", "夕焼け"),
        ("", "output"),
        ("///", "output"),
        ("a" * 500, "a" * 60),
        ("a\ud800b\0c", "a_b_c"),
        (["4", 0], "output"),
        ({"__value__": "mine"}, "mine"),
        ({"__value__": ["4", 0]}, "output"),
        (17, "output"),
    ],
)
def test_files_go_to_the_attempts_folder_whatever_prefix_was_asked_for(prefix: Any, name: str) -> None:
    graph = saver(filename_prefix=prefix)
    before = copy.deepcopy(graph)
    inputs, alone = sent(graph)
    assert inputs["9"] == {"filename_prefix": f"{FOLDER}/{name}"}
    assert not alone
    assert graph == before


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_no_prefix_leaves_the_attempts_folder(prefix: str) -> None:
    changed = sent(saver(filename_prefix=prefix))[0]["9"]["filename_prefix"]
    assert changed.startswith(FOLDER + "/")
    assert re.fullmatch(r"[\w-]{1,60}", changed.removeprefix(FOLDER + "/"))


def test_every_saver_gets_the_folder_also_without_a_prefix_and_what_is_no_saver_keeps_its_own() -> None:
    graph = {
        "1": {"class_type": "SaveImage", "inputs": {"filename_prefix": "a"}},
        "2": {"class_type": "SaveAudio", "inputs": {}},
        "3": {"class_type": "LoadLatest", "inputs": {"filename_prefix": "other/job"}},
        "4": {"class_type": "Text", "inputs": {}},
    }
    inputs, alone = sent(graph)
    prefixes = [inputs[key].get("filename_prefix") for key in graph]
    assert prefixes == [f"{FOLDER}/a", f"{FOLDER}/output", "other/job", None]
    assert not alone


@pytest.mark.parametrize(
    ("class_type", "inputs"),
    [("FixedName", {"path": "fixed"}), ("ChosenPrefix", {"filename_prefix": "a"}), ("FixedName", {})],
)
def test_a_saver_that_cannot_be_given_a_folder_runs_alone_and_never_from_the_cache(
    class_type: str, inputs: dict[str, Any]
) -> None:
    found, alone = sent(saver(class_type, **inputs))
    assert alone
    assert found["9"] == inputs | {RUN: "run-1"}


def test_a_saver_that_was_found_not_to_use_its_prefix_runs_alone() -> None:
    found, alone = sent(saver(filename_prefix="a"), careless=frozenset({"SaveImage"}))
    assert alone
    assert found["9"] == {"filename_prefix": "a", RUN: "run-1"}


def test_one_such_saver_among_others_is_enough() -> None:
    assert sent(saver() | {"8": {"class_type": "FixedName", "inputs": {}}})[1]


@pytest.mark.parametrize("class_type", ["PreviewImage", "ETN_SendImageWebSocket"])
def test_what_saves_nothing_that_others_could_needs_no_folder_and_is_made_anew(class_type: str) -> None:
    found, alone = sent(saver(class_type, images=["1", 0]))
    assert not alone
    assert found["9"] == {"images": ["1", 0], RUN: "run-1"}


def test_what_nobody_knows_runs_alone_and_gets_the_folder_where_it_has_a_prefix() -> None:
    found, alone = sent(
        saver("Unknown", filename_prefix="x/y") | {"8": {"class_type": "Other", "inputs": {"a": 1}}}, Catalog({})
    )
    assert alone
    assert found == {"9": {"filename_prefix": f"{FOLDER}/y"}, "8": {"a": 1}}


ID = "0b1e7f6e-5a6b-4d0e-9a51-2f5d6f0f3c11"
OWN = own_folder(7, ID)
HEX = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("path", "own"),
    [
        (f"{OWN}/a.glb", f"{OWN}/a.glb"),
        (f"/srv/My ComfyUI/output/{OWN}/deep/a.glb", f"{OWN}/deep/a.glb"),
        (f"C:\\out\\{OWN}\\a.glb".replace("/", "\\"), f"{OWN}/a.glb"),
        (OWN, None),
        (f"{OWN}/", None),
        (f"{OWN}/no_ending", None),
        (f"{OWN}/../../a.glb", None),
        (f"I saved {OWN}/a.glb", None),
        (f"{OWN}/a.glb\nand more", None),
        (f"other/7/{ID}/a.glb", None),
        (f"genonaut/7/another/{ID}/a.glb", None),
        ("", None),
    ],
)
def test_a_path_is_the_runs_own_if_it_is_all_of_the_text_and_in_its_folder(path: str, own: str | None) -> None:
    assert own_path(path, ID) == own
    assert own_path(path, "") is None


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (f"preview3d_{HEX}.glb", ("output", f"preview3d_{HEX}.glb")),
        (f"preview3d_advanced_{HEX}.glb", ("temp", f"preview3d_advanced_{HEX}.glb")),
        (f"temp/bg_{HEX}.png", ("temp", f"bg_{HEX}.png")),
        (f"temp/preview3d_{HEX}.glb", None),
        (f"../preview3d_{HEX}.glb", None),
        (f"preview3d_{HEX[1:]}.glb", None),
        (f"preview3d_{HEX}", None),
    ],
)
def test_files_of_random_names_are_known_by_them(path: str, place: tuple[str, str] | None) -> None:
    assert random_file(path) == place
