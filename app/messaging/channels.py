"""Every name that we use in Redis, in one place; arq's own keys keep arq's names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Names:
    """Keys and channels below one namespace.

    Channels ignore the database number, so the namespace is what keeps two environments on one server apart.
    """

    namespace: str

    @property
    def queue(self) -> str:
        """arq's queue: a sorted set, turn id → due time in ms."""
        return f"{self.namespace}:arq:queue"

    @property
    def wake(self) -> str:
        """Channel: the due time in ms of a turn just enqueued."""
        return f"{self.namespace}:arq:wake"

    @property
    def events(self) -> str:
        """Channel: every change of every job, worker and backend."""
        return f"{self.namespace}:events"

    @property
    def cancels(self) -> str:
        """Channel: ids of running jobs whose cancellation was asked for."""
        return f"{self.namespace}:cancels"

    def live(self, job_id: int) -> str:
        """Key: the last progress of a running job; JSON with the attempt it belongs to."""
        return f"{self.namespace}:live:{job_id}"

    def worker(self, worker_id: str) -> str:
        """Key: a worker's heartbeat, JSON."""
        return f"{self.namespace}:worker:{worker_id}"

    @property
    def workers(self) -> str:
        """Key: sorted set, worker id → last heartbeat, seconds."""
        return f"{self.namespace}:workers"

    @property
    def backends(self) -> str:
        """Key: sorted set, backend name → last heartbeat, seconds."""
        return f"{self.namespace}:backends"

    def backend(self, name: str) -> str:
        """Key: a backend's state as its driver last saw it, JSON."""
        return f"{self.namespace}:backend:{name}"

    def driver(self, name: str) -> str:
        """Key: the id of the one worker that drives this backend; a lease."""
        return f"{self.namespace}:driver:{name}"

    def catalog(self, digest: str) -> str:
        """Key: what a backend offers (`object_info`, compressed), by digest, so that equal backends share one."""
        return f"{self.namespace}:catalog:{digest}"

    @property
    def figures(self) -> str:
        """Key: a hash, field of a figure → its sum over all workers."""
        return f"{self.namespace}:figures"

    @property
    def cron(self) -> str:
        """Key: a hash, name of a periodic task → its last run, JSON."""
        return f"{self.namespace}:cron"
