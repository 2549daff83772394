"""One execution of one prompt: order of nodes, frames, results, and the history entry."""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from worker.standin.caching import CachedResult, signatures_of
from worker.standin.execution_log import Execution, Outcome
from worker.standin.execution_order import ExecutionOrder
from worker.standin.execution_state import ExecutionState
from worker.standin.failures import (
    InterruptedPromptError,
    cycle_failure,
    describe_failure,
    tell_failure,
)
from worker.standin.faults import FaultKind, death_of
from worker.standin.gpu_faults import broken
from worker.standin.growing_inputs import PresentInputs, present_inputs
from worker.standin.node_call import call_node, gather_inputs
from worker.standin.node_run import NodeRun
from worker.standin.nodes import (
    Blocked,
    NodeError,
    NodeOutOfMemoryError,
    NodeType,
    Result,
    ThreadDiedError,
)
from worker.standin.prompt_queue import QueueItem
from worker.standin.sockets import described_preview_frame, preview_frame, text_frame
from worker.standin.tracebacks import Place
from worker.standin.versions import GROWING_INPUTS, LINKS_NOTED, PROGRESS_STATE

log = logging.getLogger(__name__)


class PromptRun:
    """One execution of one prompt."""

    def __init__(self, state: ExecutionState, item: QueueItem, client_id: object, execution: Execution) -> None:
        _, self._prompt_id, self._graph, self._extra, self._targets = item
        self._state = state
        self._client_id = client_id
        self._execution = execution
        self._states: dict[str, dict[str, Any]] = {}
        self._results: dict[str, CachedResult] = {}
        self._outputs: dict[str, Any] = {}
        self._executed: list[str] = []
        self._current_inputs: dict[str, Any] = {}
        """Of the node that runs, as far as they were found."""
        self._messages: list[list[Any]] = []

    async def execute(self) -> Outcome:
        """Run the prompt to its end, whichever it is."""
        self._message("execution_start")
        faults = self._state.faults
        if fault := faults.take(FaultKind.DEAD_THREAD_AT_START, prompt_id=self._prompt_id):
            raise death_of(fault)
        await self._look_for_changes()
        signatures = self._signatures(await self._fingerprints())
        cache = self._state.cache
        cache.begin(signatures)
        cached = {node_id: result for node_id in self._graph if (result := cache.get(signatures[node_id])) is not None}
        self._results.update(cached)
        self._execution.cached = list(cached)
        self._message("execution_cached", {"nodes": list(cached)}, first=True)
        order = self._order(cached)
        if slow := faults.take(FaultKind.SLOW_FIRST_NODE, prompt_id=self._prompt_id):
            await asyncio.sleep(slow.seconds)
        return await self._run_nodes(order, signatures)

    async def _run_nodes(self, order: ExecutionOrder, signatures: Mapping[str, str]) -> Outcome:
        """Run node after node, until all have run or one fails."""
        node_id = ""
        try:
            while order.left:
                if (ready := order.next()) is None:
                    node_id = order.left[0]
                    failure = cycle_failure(list(self._graph))
                    self._message("execution_error", self._failed_node(node_id) | failure)
                    return Outcome.ERROR
                node_id = ready
                if (kept := self._state.cache.get(signatures[node_id])) is not None:
                    self._show_cached(node_id, kept, order)
                else:
                    result = await self._run_node(node_id, order)
                    if result is None:
                        continue
                    self._state.cache.store(signatures[node_id], result)
                order.finish(node_id)
            self._show_intermediate(signatures)
        except InterruptedPromptError:
            self._state.console.say("Processing interrupted")
            self._message("execution_interrupted", self._failed_node(node_id), everybody=True)
            return Outcome.INTERRUPTED
        except ThreadDiedError:
            raise
        except Exception as error:  # noqa: BLE001 - a node may raise whatever it likes, and only its prompt fails
            log.info("Node %s failed: %s", node_id, error if isinstance(error, NodeError) else repr(error))
            if isinstance(error, NodeOutOfMemoryError):
                self._state.models.unload()
            tell_failure(self._state.console, error)
            failure = describe_failure(error, self._current_inputs, list(self._graph), self._state.version)
            self._message("execution_error", self._failed_node(node_id) | failure)
            return Outcome.ERROR
        self._message("execution_success")
        return Outcome.SUCCESS

    def history_entry(self, outcome: Outcome) -> dict[str, Any]:
        """Return what the history keeps besides the queue item."""
        success = outcome is Outcome.SUCCESS
        meta = {
            node_id: {"node_id": node_id, "display_node": node_id, "parent_node": None, "real_node_id": node_id}
            for node_id in self._outputs
        }
        word = "success" if success else "error"
        status = {"status_str": word, "completed": success, "messages": self._messages}
        return {"outputs": self._outputs, "status": status, "meta": meta}

    def progress(self, node_id: str, value: int, maximum: int, preview: bytes | None, image_format: str) -> None:
        """Send the frames of one step."""
        self._states[node_id] |= {"value": value, "max": maximum}
        self._send_states()
        described = self._state.sockets.describes_previews(self._client_id)
        if preview is not None and described:
            metadata = self._identity(node_id) | {"image_type": f"image/{image_format.lower()}"}
            self.send_binary(described_preview_frame(preview, metadata))
        step = {"value": value, "max": maximum, "prompt_id": self._prompt_id, "node": node_id}
        self._state.sockets.send(text_frame("progress", step), self._client_id, "progress")
        if preview is not None and not described:
            self.send_binary(preview_frame(preview, image_format))

    def count_as(self, node_id: str, value: int) -> None:
        """Set the value that the node's last state shows."""
        self._states[node_id] |= {"value": value, "max": value}

    def send_binary(self, frame: bytes) -> None:
        """Send a binary frame to the owner; without one, to everybody."""
        self._state.sockets.send(frame, self._client_id, "binary")

    def stop_if_interrupted(self) -> None:
        """Raise if the prompt was interrupted."""
        if self._state.interrupted:
            self._state.interrupted = False
            raise InterruptedPromptError

    async def _look_for_changes(self) -> None:
        """Wait for the seconds that the change checks of all nodes take; no frame is sent meanwhile."""
        if slow := self._state.faults.take(FaultKind.SLOW_CHECK, prompt_id=self._prompt_id):
            await asyncio.sleep(slow.seconds)
        for node in self._graph.values():
            takes = self._state.types[node["class_type"]].fingerprint_seconds
            if takes is not None:
                await asyncio.sleep(takes(node["inputs"]) / self._state.options.speed)

    async def _fingerprints(self) -> dict[str, object]:
        """Return what else than its inputs decides whether a node has changed; large files are read in a thread."""
        found: dict[str, object] = {}
        loop = asyncio.get_running_loop()
        for node_id, node in self._graph.items():
            function = self._state.types[node["class_type"]].fingerprint
            if function is not None and isinstance(node.get("inputs"), dict):
                found[node_id] = await loop.run_in_executor(self._state.threads, function, node["inputs"])
        return found

    def _signatures(self, fingerprints: Mapping[str, object]) -> dict[str, str]:
        """Return the signature of every node, also of those that nothing depends on."""

        def fingerprint(node_id: str, inputs: Any) -> object:
            return fingerprints.get(node_id)

        reason = "a node has no inputs"
        try:
            return signatures_of(self._graph, fingerprint)
        except KeyError as error:
            raise ThreadDiedError(reason, Place.SIGNATURES, f"KeyError: {error}") from error
        except (AttributeError, TypeError) as error:
            kinds = [type(node["inputs"]) for node in self._graph.values()]
            wrong = next((kind for kind in kinds if kind is not dict), dict)
            text = f"AttributeError: '{wrong.__name__}' object has no attribute 'keys'"
            raise ThreadDiedError(reason, Place.INPUTS, text) from error

    def _order(self, cached: Mapping[str, CachedResult]) -> ExecutionOrder:
        """Return the order of the nodes to run: the outputs, and what they depend on down to cached nodes.

        ComfyUI takes the outputs as they come, and they come from a set; here the last one is taken first.
        """
        state = self._state
        notes = state.version >= LINKS_NOTED
        order = ExecutionOrder(self._graph, state.types, cached, tells_readers=notes)
        for target in reversed(self._targets):
            order.add(target)
        return order

    def _show_cached(self, node_id: str, result: CachedResult, order: ExecutionOrder) -> None:
        """Send the frames of a node that need not run: an output, or one that is like another of the same prompt."""
        self._results[node_id] = result
        if result.ui is not None:
            self._outputs[node_id] = result.ui
        self._send_executed(node_id, result.ui)
        self._states[node_id] = {"value": 1, "max": 1, "state": "finished"} | self._identity(node_id)
        self._send_states()
        try:
            order.hand_on(node_id, result)
        except (IndexError, TypeError) as error:
            text = f"{type(error).__name__}: {error}"
            raise ThreadDiedError("a kept result has no such output", Place.CACHE_UPDATE, text) from error

    def _show_intermediate(self, signatures: Mapping[str, str]) -> None:
        """Show again what nodes have shown that are no outputs and need not run."""
        if self._state.version < GROWING_INPUTS:
            return
        for node_id in self._graph:
            if self._type_of(node_id).intermediate and node_id not in self._outputs:
                kept = self._state.cache.get(signatures[node_id])
                if kept is not None and kept.ui is not None:
                    self._outputs[node_id] = kept.ui
                    self._send_executed(node_id, kept.ui)

    async def _run_node(self, node_id: str, order: ExecutionOrder) -> CachedResult | None:
        """Run one node with its frames; None if it found that it needs one of its lazy inputs first."""
        state = {"value": 0.0, "max": 1.0, "state": "running"}
        self._states[node_id] = state | self._identity(node_id)
        self._send_states()
        node_type, given = self._type_of(node_id), self._graph[node_id]["inputs"]
        present = present_inputs(node_type, given)
        inputs = self._current_inputs = {}
        missing = gather_inputs(given, present, self._results, inputs)
        self._state.current_node = node_id
        self._to_owner("executing", {"node": node_id, "display_node": node_id, "prompt_id": self._prompt_id})
        if node_type.lazy is not None and order.need(node_id, missing.intersection(node_type.lazy(inputs))):
            return None
        blocker = next((value for value in inputs.values() if isinstance(value, Blocked)), None)
        if blocker is None:
            self.stop_if_interrupted()
            result = await self._call(node_id, node_type, inputs, present)
        else:
            result = Result(tuple(Blocked(None) for _ in node_type.outputs))
            if blocker.message is not None:
                self._send_blocked(node_id, blocker.message)
        self._execution.nodes.append(node_id)
        if result.ui:
            result = replace(result, ui=self._state.assets.registered(result.ui, self._prompt_id))
            self._outputs[node_id] = result.ui
            self._send_executed(node_id, result.ui)
        kept = self._results[node_id] = CachedResult(result.outputs, result.ui)
        order.hand_on(node_id, kept)
        self._executed.append(node_id)
        self._states[node_id] |= {"value": self._states[node_id]["max"], "state": "finished"}
        self._send_states()
        return kept

    async def _call(self, node_id: str, node_type: NodeType, inputs: dict[str, Any], present: PresentInputs) -> Result:
        """Call the node's coroutine, after the faults that wait for it."""
        state = self._state
        run = NodeRun(
            node_id=node_id,
            graph=self._graph,
            extra_data=self._extra,
            reporter=self,
            options=state.options,
            faults=state.faults,
            folders=state.folders,
            models=state.models,
            threads=state.threads,
            execution=self._execution,
            tasks=state.afterwards,
            queue=state.queue,
            objects=state.objects,
        )
        occasion = run.occasion
        if fault := state.faults.take(FaultKind.HANG, **occasion):
            if fault.seconds:
                await asyncio.sleep(fault.seconds)
            else:
                await fault.released.wait()
        if fault := state.faults.take(FaultKind.NODE_ERROR, **occasion):
            raise NodeError(fault.message or "The stand-in was asked to fail", fault.exception_type)
        if fault := state.faults.take(FaultKind.OUT_OF_MEMORY, **occasion):
            raise NodeOutOfMemoryError(fault.message or "CUDA out of memory. Tried to allocate 2.00 GiB")
        if fault := state.faults.take(FaultKind.BROKEN_GPU, **occasion):
            raise broken(fault.gpu)
        return await call_node(node_type, run, inputs, present)

    def _type_of(self, node_id: str) -> NodeType:
        return self._state.types[self._graph[node_id]["class_type"]]

    def _failed_node(self, node_id: str) -> dict[str, Any]:
        """Return what the frames of a failure and of an interrupt share."""
        node_type = self._graph[node_id]["class_type"]
        return {"node_id": node_id, "node_type": node_type, "executed": list(self._executed)}

    def _send_blocked(self, node_id: str, message: str) -> None:
        """Report a blocked output; the history keeps no trace of it."""
        failure = {
            "exception_message": f"Execution Blocked: {message}",
            "exception_type": "ExecutionBlocked",
            "traceback": [],
            "current_inputs": [],
            "current_outputs": [],
        }
        self._to_owner("execution_error", {"prompt_id": self._prompt_id} | self._failed_node(node_id) | failure)

    def _send_executed(self, node_id: str, ui: dict[str, Any] | None) -> None:
        data = {"node": node_id, "display_node": node_id, "output": ui, "prompt_id": self._prompt_id}
        self._to_owner("executed", data)

    def _identity(self, node_id: str) -> dict[str, Any]:
        """Return a node's ids as `progress_state` and previews carry them."""
        return {
            "node_id": node_id,
            "prompt_id": self._prompt_id,
            "display_node_id": node_id,
            "parent_node_id": None,
            "real_node_id": node_id,
        }

    def _send_states(self) -> None:
        """Send the state of every node that has started."""
        if self._state.version >= PROGRESS_STATE:
            frame = text_frame("progress_state", {"prompt_id": self._prompt_id, "nodes": self._states})
            self._state.sockets.send(frame, self._client_id, "progress_state")

    def _to_owner(self, kind: str, data: dict[str, Any]) -> None:
        """Send a frame to the owner; without one, to nobody."""
        if self._client_id is not None:
            self._state.sockets.send(text_frame(kind, data), self._client_id, kind)

    def _message(
        self, kind: str, data: dict[str, Any] | None = None, *, everybody: bool = False, first: bool = False
    ) -> None:
        """Send a frame that the history keeps."""
        now = {"timestamp": int(time.time() * 1000)}
        prompt = {"prompt_id": self._prompt_id}
        whole = {**(data or {}), **prompt, **now} if first else {**prompt, **(data or {}), **now}
        self._messages.append([kind, whole])
        if everybody or self._client_id is not None:
            self._state.sockets.send(text_frame(kind, whole), self._client_id, kind)
