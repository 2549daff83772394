"""What a backend says, read: whatever it is, reading it never raises, and what comes of it is small."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import WSMsgType
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import text_to_image

from app.domain.errors import AttemptFailed
from app.domain.node_times import MOST
from worker.attempts.attempt_metrics import AttemptMetrics
from worker.attempts.prompt_watch import PromptWatch
from worker.comfyui.answers import (
    prompt_id_of,
    read_ending,
    read_frame,
    read_object,
    read_saved,
    read_stats,
)
from worker.comfyui.node_outputs import MOST_NAME_CHARS, MOST_OUTPUTS, OutputFile
from worker.comfyui.refusals import read_refusal

pytestmark = pytest.mark.slow


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


DEEP = nested(990)
WORDS = st.sampled_from(
    ["", "a", "\0", "\ud800", "x" * 5000, "../../x", "/etc/passwd", "success", "error", "execution_error", "output"]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.just(10**400) | WORDS | st.just(DEEP)
KEYS = st.sampled_from(
    (
        "status messages status_str outputs images text string filename subfolder type node output node_errors errors "
        "error message details class_type system devices comfyui_version name vram_total vram_free exception_type "
        "exception_message traceback node_id node_type nodes value max state display_node display_node_id prompt_id "
        "sampler save finished running"
    ).split()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=25
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=6)
FRAMES = st.sampled_from(
    "execution_start execution_cached executing executed progress progress_state execution_success x".split()
)


def as_row(text: str | None) -> None:
    """Check that PostgreSQL takes it, and that nobody is made to read a book."""
    assert text is None or (len(text) < 12_000 and "\0" not in text)
    (text or "").encode()


@settings(max_examples=150, deadline=None)
@given(OBJECTS)
def test_a_history_entry_may_say_anything(entry: dict[str, Any]) -> None:
    ending = read_ending(entry)
    for file in ending.outputs:
        as_row(file.node_id)
        assert len(file.filename) <= MOST_NAME_CHARS
        file.filename.encode()
        as_row(file.key)
        if file.is_data:
            json.loads(file.text or "", parse_constant=pytest.fail)
    for note in (*ending.notes, ending.silence):
        as_row(note)
    if ending.failure is not None:
        for text in (str(ending.failure), ending.failure.node_id, ending.failure.node_type):
            as_row(text)


@settings(max_examples=150, deadline=None)
@given(OBJECTS)
def test_a_refusal_may_say_anything(answer: dict[str, Any]) -> None:
    refused = read_refusal(answer)
    assert isinstance(refused, AttemptFailed)
    as_row(str(refused))


@settings(max_examples=150, deadline=None)
@given(OBJECTS)
def test_the_state_of_a_server_may_be_anything(answer: dict[str, Any]) -> None:
    stats = read_stats(answer)
    json.dumps([stats.version, stats.device, stats.vram_total, stats.vram_free], allow_nan=False)
    assert stats.vram_free is None or 0 <= stats.vram_free <= (stats.vram_total or 2**50)
    as_row(stats.version)
    as_row(stats.device)


@pytest.mark.parametrize(
    "devices", [["x"], [], {}, None, 7, [None], [{"vram_free": -1e308, "vram_total": 1e308, "name": DEEP}]]
)
def test_a_server_whose_figures_are_nonsense_has_none(devices: Any) -> None:
    stats = read_stats({"system": {"comfyui_version": "0.3.64"}, "devices": devices})
    assert (stats.version, stats.device, stats.vram_total, stats.vram_free) == ("0.3.64", None, None, None)


def test_no_more_memory_is_free_than_there_is() -> None:
    stats = read_stats({"devices": [{"name": "cuda:0 \n NVIDIA", "vram_total": 100, "vram_free": 2.0**40}]})
    assert (stats.device, stats.vram_total, stats.vram_free) == ("cuda:0  NVIDIA", 100, 100)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(FRAMES, OBJECTS), max_size=6))
def test_frames_may_say_anything(frames: list[tuple[str, dict[str, Any]]]) -> None:
    watch = PromptWatch("gpu", AttemptMetrics())
    watch.follow(text_to_image())
    saved: list[OutputFile] = []
    watch.on_saved = saved.extend
    for kind, data in frames:
        watch.feed(kind, data)
        watch.spans.at_work()
    assert 0 <= watch.fold.percent <= 99
    json.dumps(watch.spans.kept(0), allow_nan=False)


@settings(deadline=None)
@given(OBJECTS)
def test_a_saved_file_may_be_anything(data: dict[str, Any]) -> None:
    for file in read_saved(data):
        file.filename.encode()


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_a_frame_may_be_any_bytes(data: bytes) -> None:
    for kind in (WSMsgType.BINARY, WSMsgType.TEXT):
        read_frame(SimpleNamespace(type=kind, data=data))


@pytest.mark.parametrize("raw", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000, b'{"a": ' + b"9" * 10_000 + b"}"])
def test_what_is_nested_without_end_or_a_number_without_end_is_no_object(raw: bytes) -> None:
    assert read_object(raw) == {}


def test_an_answer_of_a_million_values_is_not_taken_apart() -> None:
    assert read_object(b'{"a": [' + b"[]," * 2_000_000 + b"0]}") == {}
    many = json.dumps({str(number): {"value": number} for number in range(1000)}).encode()
    assert len(read_object(many)) == 1000


def test_a_frame_of_a_million_nodes_is_not_taken_apart() -> None:
    nodes = b",".join(b'"%d":{}' % number for number in range(150_000))
    frame = b'{"type": "progress_state", "data": {"nodes": {%b}}}' % nodes
    assert read_frame(SimpleNamespace(type=WSMsgType.TEXT, data=frame)) is None
    assert read_frame(SimpleNamespace(type=WSMsgType.TEXT, data=b" " * 5 * 2**20 + b'{"type":"a","data":{}}')) is None


@pytest.mark.parametrize("value", ["", "a" * 65, "../x", "a/b", "a\0", "a?b", "\ud800", 7, None, ["a"], DEEP])
def test_what_can_be_no_prompt_has_no_id(value: Any) -> None:
    assert prompt_id_of(value) is None
    assert prompt_id_of("0b1e7f6e-5a6b-4d0e-9a51-2f5d6f0f3c11") == "0b1e7f6e-5a6b-4d0e-9a51-2f5d6f0f3c11"


RECORD = [{"filename": "a.png", "subfolder": "", "type": "output"}]


def entry(*names: Any, **outputs: Any) -> dict[str, Any]:
    files = [{"filename": name, "subfolder": "", "type": "output"} for name in names]
    return {"status": {"status_str": "success"}, "outputs": {"9": {"images": files}} | outputs}


def test_of_too_many_files_the_first_ones_are_kept_and_previews_last() -> None:
    whole = read_ending(entry(*(f"{number}.png" for number in range(MOST_OUTPUTS))))
    assert (len(whole.outputs), whole.notes) == (MOST_OUTPUTS, ())
    shown = {"images": [{"filename": "shown.png", "type": "temp"}]}
    ending = read_ending(entry(*(f"{number}.png" for number in range(MOST_OUTPUTS + 1)), **{"3": shown}))
    assert ending.failure is None
    assert [file.filename for file in ending.outputs] == [f"{number}.png" for number in range(MOST_OUTPUTS)]
    assert ending.notes == ("The run made 2,002 outputs; only 2,000 of them are kept.",)


def test_a_file_that_a_node_names_again_and_again_is_one_file() -> None:
    ending = read_ending(entry(*["a.png"] * 10_000, **{"9": {"images": [{"filename": "a.png"}] * 9, "gifs": RECORD}}))
    assert ending.outputs == [OutputFile("9", "a.png", key="images")]
    texts = read_ending(entry(**{"3": {"text": ["same", "same"]}}))
    assert [each.text for each in texts.outputs] == ["same", "same"]


@pytest.mark.parametrize("name", ["x" * (MOST_NAME_CHARS + 1), "a\0.png", "\ud800.png", 7, None, ["a.png"], DEEP, ""])
def test_a_record_whose_name_no_file_can_have_is_data_and_asked_for_nowhere(name: Any) -> None:
    seen = [(file.filename, file.is_data) for file in read_ending(entry(name, "b.png")).outputs]
    assert seen == [("data.json", True), ("b.png", False)]
    for part in ("subfolder", "type"):
        record = {"filename": "a.png", part: name or 7}
        found = read_ending(entry("b.png", **{"3": {"images": [record]}})).outputs
        assert [(file.node_id, file.is_data) for file in found] == [("3", True), ("9", False)]
        json.loads(found[0].text or "")


def test_nodes_that_come_again_and_again_take_no_memory() -> None:
    watch = PromptWatch("gpu", AttemptMetrics())
    watch.follow(text_to_image())
    (node, *_) = text_to_image()
    watch.feed("progress_state", {"nodes": {}})
    for number in range(5000):
        watch.feed("executing", {"node": f"{node}:{number}", "display_node": node})
        watch.feed("executing", {"node": "x" * 5000 + str(number), "display_node": node})
    watch.feed("execution_cached", {"nodes": [node] * 10_000})
    assert len(watch.spans.running) <= MOST
    assert len(watch.spans.from_cache) == 1
    assert max(map(len, watch.spans.running)) <= 200
