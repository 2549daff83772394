"""Operators' requests to this worker, read from Redis and PostgreSQL when announced and with each heartbeat."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from app.domain.worker_states import WorkerState

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.messaging.operator_messages import OperatorMessages
    from app.storage.backend_states import BackendStates
    from worker.comfyui.backend import Backend
    from worker.comfyui.pool import BackendPool

log = logging.getLogger(__name__)


class OperatorRequests:
    """Carries out operators' requests; `changed` is called when the worker's state changes."""

    def __init__(
        self,
        worker_id: str,
        commands: OperatorMessages,
        states: BackendStates,
        pool: BackendPool,
        changed: Callable[[], None],
    ) -> None:
        self.state = WorkerState.WORKING
        self._worker_id = worker_id
        self._commands = commands
        self._states = states
        self._pool = pool
        self._changed = changed

    async def apply_state(self) -> None:
        """Set the worker's state to the one last requested; raises `QueueUnavailable`, and changes nothing then.

        A request that Redis has lost is not undone: the worker keeps its state.
        """
        wanted = (await self._commands.asked([self._worker_id])).get(self._worker_id, self.state)
        if wanted is not self.state:
            log.info("an operator has set this worker's state to %s", wanted)
            self.state = wanted
            self._pool.quiet = wanted is not WorkerState.WORKING
            self._changed()

    async def read_drains(self) -> None:
        """Read which backends are drained; raises `DatabaseUnavailable`, and changes nothing then."""
        first = self._pool.drained is None
        self._pool.set_drained(await self._states.drained())
        if first:
            self._changed()

    async def free_memory(self) -> None:
        """Have driven backends free their memory where an operator asks for it; raises `QueueUnavailable`."""
        driven = {backend.name: backend for backend in self._pool.driven}
        requests = await self._commands.asked_to_free(list(driven))
        await asyncio.gather(*(self._free(driven[name], request) for name, request in requests.items()))

    async def _free(self, backend: Backend, request: str) -> None:
        """Pass the request on once, without a retry: the backend's heartbeat shows the result."""
        log.info("backend %s: freeing its memory, as an operator requested", backend.name)
        await backend.free_memory()
        await self._commands.freed(backend.name, request)
