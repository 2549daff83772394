"""The prompts of one run: a node may queue its own prompt again, as Meta Batch does, until all is done."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import BackendLost
from app.domain.text import word
from worker.comfyui.answers import read_ending

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from app.domain.workflow import Graph
    from worker.attempts.prompt_watch import PromptWatch
    from worker.comfyui.backend import Backend

MOST: Final = 10_000
"""Prompts of one run, and no more: its time limit is that of all of them together."""
_STOPPED_S: Final = 60.0
_AGAIN_S: Final = 0.1
_UNFINISHED: Final = "unfinished_batch"
"""Under this name VideoHelperSuite's savers say only that they wait for the rest."""


class SelfQueuedPrompts:
    """One run on its backend; `prompt_id` is the prompt that is being followed, and at first the one that was sent."""

    def __init__(self, backend: Backend, watch: PromptWatch, prompt_id: str) -> None:
        self.prompt_id = prompt_id
        self._run = prompt_id
        self._backend = backend
        self._watch = watch
        self._known = {prompt_id}
        self._ended: list[Mapping[str, Any]] = []
        self._may_go_on = False

    def follow(self, graph: Graph) -> None:
        """Note what is sent. No node of ComfyUI's own queues itself; of a class that is not known it cannot be said."""
        known = (self._backend.catalog.nodes.get(node["class_type"]) for node in graph.values())
        self._may_go_on = any(each is None or not each.is_core for each in known)

    def rename(self, prompt_id: str) -> None:
        """The server has given the prompt that was sent another id than asked for."""
        self.prompt_id = prompt_id
        self._known = {prompt_id}

    async def go_on(self, history: Callable[[], Awaitable[Mapping[str, Any]]]) -> bool:
        """Go on with the next prompt of the run, if the one that has ended left any; `history` reads that one's.

        It stands in ComfyUI's queue with our mark, or has ended already; where the one before failed it is stopped.
        Raises `BackendLost`.
        """
        if not self._may_go_on:
            return False
        others = await self._others()
        ended_at = self._watch.ended_at
        unheard = ended_at is None or self._watch.ever_missed
        if unheard or self._backend.stranger_at >= (ended_at or 0.0):
            since = await self._backend.comfyui.marked_since(self.prompt_id)
            others = [*self._of_run(since), *others]
        if not others:
            return False
        before = await history()
        if read_ending(before).failure is not None or len(self._known) >= MOST:
            await self.stop_others()
            return False
        self._ended.append(before)
        self.prompt_id = others[0]
        self._known.add(others[0])
        return True

    async def stop_others(self) -> None:
        """Stop what nodes of the run have queued, until nothing of it is left in ComfyUI's queue.

        A node that does not look whether it was interrupted queues the next prompt all the same. Raises `BackendLost`
        when there is always one more.
        """
        if not self._may_go_on:
            return
        limit = time.monotonic() + _STOPPED_S
        while others := await self._others():
            for prompt_id in others:
                await self._backend.comfyui.stop(prompt_id)
            if time.monotonic() > limit:
                raise BackendLost("The backend goes on with a run that was to be stopped.")
            await asyncio.sleep(_AGAIN_S)

    async def _others(self) -> list[str]:
        """Return the prompts in ComfyUI's queue that are of this run and not followed yet."""
        return self._of_run(await self._backend.comfyui.marked_prompts())

    def _of_run(self, marked: Mapping[str, str]) -> list[str]:
        return [each for each, run in marked.items() if run == self._run and each not in self._known]

    def together(self, last: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the history of all of them as if it were of one run: the last one says how that ended.

        A file is told once, whichever prompts name it; of what else a node says the last word counts.
        """
        outputs: dict[str, dict[str, Any]] = {}
        for entry in (*self._ended, last):
            for node_id, shown in _objects(entry.get("outputs")):
                of_node = outputs.setdefault(node_id, {})
                for key, value in shown.items():
                    if key != _UNFINISHED:
                        of_node[key] = _joined(of_node.get(key), value)
        joined = {**last, "outputs": {node_id: shown for node_id, shown in outputs.items() if shown}}
        return joined if not self._ended else {**joined, "status": _from_the_start(self._ended[0], last)}


def _objects(value: Any) -> list[tuple[str, dict[str, Any]]]:
    found = value.items() if isinstance(value, dict) else ()
    return [(word(key), each) for key, each in found if isinstance(each, dict)]


def _joined(before: Any, value: Any) -> Any:
    """Return the records of files of both; the second value where they are no such records."""
    if not isinstance(before, list) or not isinstance(value, list):
        return value
    if not all(isinstance(each, dict) and "filename" in each for each in (*before, *value)):
        return value
    return before + [each for each in value if each not in before]


def _from_the_start(first: Mapping[str, Any], last: Mapping[str, Any]) -> Any:
    """Return the last prompt's status with the moment at which the first one began."""
    status, began = last.get("status"), first.get("status")
    if not isinstance(status, dict) or not isinstance(began, dict):
        return status
    messages = [_messages(began, "execution_start", wanted=True), _messages(status, "execution_start", wanted=False)]
    return {**status, "messages": messages[0] + messages[1]}


def _messages(status: Mapping[str, Any], kind: str, *, wanted: bool) -> list[Any]:
    found = status.get("messages")
    found = found if isinstance(found, list) else []
    return [each for each in found if isinstance(each, list) and each and (each[0] == kind) is wanted]
