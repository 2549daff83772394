"""What several prompts of one run have left is read as if it were one run's."""

from __future__ import annotations

from typing import Any

from worker.attempts.self_queued_prompts import SelfQueuedPrompts
from worker.comfyui.answers import read_ending


def entry(began: int, ended: int, **outputs: dict[str, Any]) -> dict[str, Any]:
    messages = [["execution_start", {"timestamp": began}], ["execution_success", {"timestamp": ended}]]
    return {"status": {"status_str": "success", "messages": messages}, "outputs": outputs}


def record(name: str) -> dict[str, str]:
    return {"filename": name, "subfolder": "", "type": "output"}


def together(*entries: dict[str, Any]) -> Any:
    passes = SelfQueuedPrompts(None, None, "run")  # type: ignore[arg-type]
    passes.ended.extend(entries[:-1])
    return passes.together(entries[-1])


def test_one_prompt_is_told_as_it_is() -> None:
    one = entry(1, 2, a={"images": [record("a")]}, b={"text": ["x"], "value": [0]})
    assert together(one) == one


def test_files_of_all_prompts_are_told_once_and_of_all_else_the_last_word_counts() -> None:
    first = entry(1, 2, a={"images": [record("1"), record("same")], "text": ["one"]})
    last = entry(3, 4, a={"images": [record("same"), record("2")], "text": ["two"]}, b={"gifs": [record("film")]})
    told = together(first, last)["outputs"]
    assert [each["filename"] for each in told["a"]["images"]] == ["1", "same", "2"]
    assert told["a"]["text"] == ["two"]
    assert told["b"] == {"gifs": [record("film")]}


def test_a_saver_that_only_waited_for_the_rest_has_said_nothing() -> None:
    waiting = entry(1, 2, a={"unfinished_batch": [True]})
    assert together(waiting, entry(3, 4, a={"gifs": [record("film")]}))["outputs"] == {"a": {"gifs": [record("film")]}}
    assert together(waiting)["outputs"] == {}


def test_it_lasted_from_the_first_prompts_beginning_to_the_last_ones_end() -> None:
    ending = read_ending(together(entry(1, 2), entry(3, 4, a={"images": [record("a")]}), entry(5, 6)))
    assert (ending.began_ms, ending.ended_ms) == (1, 6)


def test_nonsense_is_told_as_it_is_and_breaks_nothing() -> None:
    for nonsense in ({}, {"outputs": 3, "status": []}, {"outputs": {"a": 3, "b": {"images": 4}}}):
        for other in (nonsense, entry(1, 2, b={"images": [record("a")]})):
            assert isinstance(together(nonsense, other)["outputs"], dict)
