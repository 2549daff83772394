"""What operators want of this worker: taken from Redis and PostgreSQL when they say so, and with each heartbeat."""

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
    """Carries them out. `changed` is called when this worker is in another state."""

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

    async def obey(self) -> None:
        """Be in the state that this worker was last asked to be in; raises `QueueUnavailable`, and stays as it is.

        A wish that Redis has lost is not taken back by that.
        """
        wanted = (await self._commands.asked([self._worker_id])).get(self._worker_id, self.state)
        if wanted is not self.state:
            log.info("this worker was asked to be %s", wanted)
            self.state = wanted
            self._pool.quiet = wanted is not WorkerState.WORKING
            self._changed()

    async def learn(self) -> None:
        """Read which backends are drained; raises `DatabaseUnavailable`, and all stays as it is."""
        first = self._pool.drained is None
        self._pool.set_drained(await self._states.drained())
        if first:
            self._changed()

    async def free(self) -> None:
        """Have those of our backends free their memory that are to; raises `QueueUnavailable`."""
        driven = {backend.name: backend for backend in self._pool.driven}
        wishes = await self._commands.asked_to_free(list(driven))
        await asyncio.gather(*(self._free(driven[name], wish) for name, wish in wishes.items()))

    async def _free(self, backend: Backend, wish: str) -> None:
        """Pass the wish on once: what became of it stands in the backend's heartbeat."""
        log.info("backend %s is to free its memory", backend.name)
        await backend.free_memory()
        await self._commands.freed(backend.name, wish)
