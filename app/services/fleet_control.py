"""What an operator may do with workers, backends and periodic tasks; what is said of it, heartbeats confirm."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.domain.errors import BackendNotFound, QueueUnavailable, TaskNotFound, WorkerNotFound
from app.domain.message import timestamp
from app.domain.worker_states import PERIODIC_TASKS, WorkerState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from app.domain.heartbeats import BackendBeat
    from app.messaging.operator_messages import OperatorMessages
    from app.messaging.registry import Registry
    from app.storage.backend_states import BackendState, BackendStates
    from app.storage.periodic_tasks import PeriodicRun, PeriodicTasks, Plan

log = logging.getLogger(__name__)

OVERDUE_S: Final = 5.0
"""Time by which a periodic task may be late before it counts as overdue: workers check the time every few seconds."""


@dataclass(frozen=True, slots=True)
class ScheduledTask:
    """A periodic task, and how it went."""

    name: str
    what: str
    """What it does; empty when it is one of another version."""
    plan: Plan | None
    """None: no worker has told of it yet."""
    last: PeriodicRun | None
    """None: it has never run."""
    asked: bool
    """It was asked to run, and has not run since."""

    def overdue(self, now: datetime) -> bool:
        """Whether it should have run by now, and has not."""
        return self.plan is not None and (now - self.plan.next_run).total_seconds() > OVERDUE_S


class Fleet:
    """The use cases that change how the fleet works."""

    def __init__(
        self, registry: Registry, commands: OperatorMessages, states: BackendStates, runs: PeriodicTasks
    ) -> None:
        self._registry = registry
        self._commands = commands
        self._states = states
        self._runs = runs

    async def quiet(self, worker_id: str, actor: str) -> None:
        """Ask a worker to take no more turns and finish what it has; raises as `stop`."""
        await self._ask(worker_id, WorkerState.QUIET, actor)

    async def resume_worker(self, worker_id: str, actor: str) -> None:
        """Ask a worker to take turns again; raises as `stop`."""
        await self._ask(worker_id, WorkerState.WORKING, actor)

    async def stop(self, worker_id: str, actor: str) -> None:
        """Ask a worker to finish what it has, and to end then.

        Raises
        ------
        WorkerNotFound
            It is not alive, so it would not read the request.
        QueueUnavailable
        """
        await self._ask(worker_id, WorkerState.STOPPING, actor)

    async def drain(self, name: str, actor: str) -> BackendState:
        """Have a backend given no more prompts; it finishes those that it has. Holds until `resume`, come what may.

        Raises
        ------
        BackendNotFound
            No worker has told of it within a day, and nothing was ever decided about it.
        DatabaseUnavailable, QueueUnavailable
        """
        return await self._decide(name, drained=True, actor=actor)

    async def resume(self, name: str, actor: str) -> BackendState:
        """Undo `drain`; raises as that does."""
        return await self._decide(name, drained=False, actor=actor)

    async def free(self, name: str, actor: str) -> None:
        """Have a backend unload its models as soon as it is idle.

        Raises
        ------
        BackendNotFound
            No worker drives it at the moment.
        QueueUnavailable
        """
        beat = await self._backend(name)
        if beat is None or not beat.live or beat.driver is None:
            raise BackendNotFound(f"No worker drives a backend called {name} at the moment.")
        await self._commands.ask_to_free(name)
        log.info("backend %s is to free its memory, says %s", name, actor)

    async def run_now(self, task: str, actor: str) -> bool:
        """Have a periodic task run within seconds; False when it waits to be run already.

        Raises
        ------
        TaskNotFound, DatabaseUnavailable, QueueUnavailable
        """
        if task not in PERIODIC_TASKS:
            raise TaskNotFound(f"There is no periodic task called {task}.")
        last = {run.name: run for run in await self._runs.all()}.get(task)
        log.info("periodic task %s is to run now, says %s", task, actor)
        return await self._commands.ask_to_run(task, _run_id(last))

    async def schedule(self) -> list[ScheduledTask]:
        """Return the periodic tasks by name; while Redis is away none is known to be asked for.

        Raises
        ------
        DatabaseUnavailable
        """
        runs = {run.name: run for run in await self._runs.all()}
        plans = {plan.name: plan for plan in await self._runs.plans()}
        names = sorted(plans.keys() | PERIODIC_TASKS.keys())
        try:
            asked = await self._commands.asked_to_run(names)
        except QueueUnavailable:
            asked = {}
        return [
            ScheduledTask(
                name,
                PERIODIC_TASKS.get(name, ""),
                plans.get(name),
                runs.get(name),
                asked.get(name) == _run_id(runs.get(name)),
            )
            for name in names
        ]

    async def asked(self, worker_ids: Sequence[str]) -> dict[str, WorkerState]:
        """Return worker → the state that it was last asked to be in; raises `QueueUnavailable`."""
        return await self._commands.asked(worker_ids)

    async def asked_to_free(self, names: Sequence[str]) -> set[str]:
        """Return those of the backends that have yet to be told to free their memory; raises `QueueUnavailable`."""
        return set(await self._commands.asked_to_free(names))

    async def decisions(self) -> dict[str, BackendState]:
        """Return backend → what was decided about it last; raises `DatabaseUnavailable`."""
        return await self._states.all()

    async def _ask(self, worker_id: str, state: WorkerState, actor: str) -> None:
        if not any(beat.live for beat in await self._registry.workers() if beat.name == worker_id):
            raise WorkerNotFound(f"There is no live worker {worker_id}.")
        await self._commands.ask(worker_id, state)
        log.info("worker %s is asked to be %s, says %s", worker_id, state, actor)

    async def _decide(self, name: str, *, drained: bool, actor: str) -> BackendState:
        if name not in await self._states.all() and await self._backend(name) is None:
            raise BackendNotFound(f"There is no backend called {name}.")
        state = await self._states.decide(name, drained=drained, actor=actor)
        log.info("backend %s is to be %s, says %s", name, "drained" if drained else "in use", actor)
        try:
            await self._commands.nudge()
        except QueueUnavailable as error:
            log.warning("backend %s: its driver finds out with its next heartbeat: %s", name, error)
        return state

    async def _backend(self, name: str) -> BackendBeat | None:
        return next((beat for beat in await self._registry.backends() if beat.name == name), None)


def known_backends(beats: Iterable[BackendBeat], decided: Mapping[str, BackendState]) -> list[str]:
    """Return the names, in order, of the backends that are known by a heartbeat, or by being drained."""
    return sorted({beat.name for beat in beats} | {name for name, state in decided.items() if state.drained})


def _run_id(run: PeriodicRun | None) -> str:
    """Return what identifies the last run of a task."""
    return timestamp(run.last_run) if run is not None else "never"
