"""The prompts of one run: a node may queue its own prompt again, as Meta Batch does, until its batch is finished."""

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
"""Maximum number of prompts in one run; all of them share the run's time limit."""
_STOPPED_S: Final = 60.0
_AGAIN_S: Final = 0.1
_UNFINISHED: Final = "unfinished_batch"
"""Output key by which VideoHelperSuite's savers report only that more prompts follow."""


class SelfQueuedPrompts:
    """One run on its backend; `prompt_id` is the prompt being followed, at first the submitted one."""

    def __init__(self, backend: Backend, watch: PromptWatch, prompt_id: str) -> None:
        self.prompt_id = prompt_id
        self._run = prompt_id
        self._backend = backend
        self._watch = watch
        self._known = {prompt_id}
        self.ended: list[Mapping[str, Any]] = []
        """Histories of the run's prompts that have ended, but for the last one."""
        self._may_queue_itself = False

    def follow(self, graph: Graph) -> None:
        """Note whether the graph may queue itself again: ComfyUI's own nodes do not, other classes may."""
        known = (self._backend.catalog.nodes.get(node["class_type"]) for node in graph.values())
        self._may_queue_itself = any(each is None or not each.is_core for each in known)

    def rename(self, prompt_id: str) -> None:
        """Note the id that an old server assigned to the submitted prompt."""
        self.prompt_id = prompt_id
        self._known = {prompt_id}

    async def go_on(self, history: Callable[[], Awaitable[Mapping[str, Any]]]) -> bool:
        """Switch to the next prompt of the run; False when there is none. `history` reads the ended prompt's history.

        The next prompt carries our mark and is in ComfyUI's queue, or has already ended. If the ended prompt failed,
        the others are stopped. Raises `BackendLost`.
        """
        if not self._may_queue_itself:
            return False
        others = await self._others()
        ended_at = self._watch.ended_at
        unheard = ended_at is None or self._watch.ever_missed
        if unheard or self._backend.foreign_event_at >= (ended_at or 0.0):
            since = await self._backend.comfyui.marked_since(self.prompt_id)
            others = [*self._of_run(since), *others]
        if not others:
            return False
        before = await history()
        if read_ending(before).failure is not None or len(self._known) >= MOST:
            await self.stop_others()
            return False
        self.ended.append(before)
        self.prompt_id = others[0]
        self._known.add(others[0])
        return True

    async def stop_waiting(self) -> None:
        """Delete what nodes of the run have queued so far, before its running prompt is stopped.

        Otherwise ComfyUI would begin the next prompt in the moment in which the running one ends. Raises `BackendLost`.
        """
        if self._may_queue_itself:
            await self._stop_known()

    async def stop_others(self) -> None:
        """Stop the prompts that nodes of the run have queued, until none is left in ComfyUI's queue.

        A node may queue the next prompt even after an interrupt, hence the loop. Raises `BackendLost` when prompts
        still appear after `_STOPPED_S`.
        """
        if not self._may_queue_itself:
            return
        limit = time.monotonic() + _STOPPED_S
        while await self._stop_known():
            if time.monotonic() > limit:
                raise BackendLost("The backend goes on with a run that was to be stopped.")
            await asyncio.sleep(_AGAIN_S)

    async def _stop_known(self) -> bool:
        """Stop those that are in ComfyUI's queue now, the last one first; False when there are none."""
        others = await self._others()
        for prompt_id in reversed(others):
            await self._backend.comfyui.stop(prompt_id)
        return bool(others)

    async def _others(self) -> list[str]:
        """Return the prompts in ComfyUI's queue that belong to this run and were not followed yet."""
        return self._of_run(await self._backend.comfyui.marked_prompts())

    def _of_run(self, marked: Mapping[str, str]) -> list[str]:
        return [each for each, run in marked.items() if run == self._run and each not in self._known]

    def together(self, last: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return one history entry for all prompts of the run, with the status of the last one.

        A file that several prompts name appears once; of a node's other outputs the last value counts.
        """
        outputs: dict[str, dict[str, Any]] = {}
        for entry in (*self.ended, last):
            for node_id, shown in _objects(entry.get("outputs")):
                of_node = outputs.setdefault(node_id, {})
                for key, value in shown.items():
                    if key != _UNFINISHED:
                        of_node[key] = _joined(of_node.get(key), value)
        joined = {**last, "outputs": {node_id: shown for node_id, shown in outputs.items() if shown}}
        return joined if not self.ended else {**joined, "status": _from_the_start(self.ended[0], last)}


def _objects(value: Any) -> list[tuple[str, dict[str, Any]]]:
    found = value.items() if isinstance(value, dict) else ()
    return [(word(key), each) for key, each in found if isinstance(each, dict)]


def _joined(before: Any, value: Any) -> Any:
    """Return the file records of both lists; the second value when they are not lists of file records."""
    if not isinstance(before, list) or not isinstance(value, list):
        return value
    if not all(isinstance(each, dict) and "filename" in each for each in (*before, *value)):
        return value
    return before + [each for each in value if each not in before]


def _from_the_start(first: Mapping[str, Any], last: Mapping[str, Any]) -> Any:
    """Return the last prompt's status with the start time of the first one."""
    status, began = last.get("status"), first.get("status")
    if not isinstance(status, dict) or not isinstance(began, dict):
        return status
    messages = [_messages(began, "execution_start", wanted=True), _messages(status, "execution_start", wanted=False)]
    return {**status, "messages": messages[0] + messages[1]}


def _messages(status: Mapping[str, Any], kind: str, *, wanted: bool) -> list[Any]:
    found = status.get("messages")
    found = found if isinstance(found, list) else []
    return [each for each in found if isinstance(each, list) and each and (each[0] == kind) is wanted]
