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
    def looks(self) -> str:
        """Channel: names of backends whose drivers are to look for jobs, which another worker has left to them."""
        return f"{self.namespace}:arq:looks"

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

    def preview(self, job_id: int) -> str:
        """Key: the newest picture of a running job: its number, 8 bytes, the greatest first, and then WebP."""
        return f"{self.namespace}:preview:{job_id}"

    def rate(self, key_id: int) -> str:
        """Key: until when what a key has used of its requests a second is paid off, µs of Redis' clock."""
        return f"{self.namespace}:rate:{key_id}"

    def ticket(self, ticket_hash: str) -> str:
        """Key: what a ticket of a WebSocket is good for, JSON, by the ticket's hash; gone when it was used."""
        return f"{self.namespace}:ticket:{ticket_hash}"

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
    def missing_models(self) -> str:
        """Key: a hash, model that waiting jobs need and no backend has → since when, in seconds of Redis' clock."""
        return f"{self.namespace}:missing-models"

    @property
    def maintenance(self) -> str:
        """arq's queue of periodic tasks: a sorted set, run → due time in ms."""
        return f"{self.queue}:maintenance"

    @property
    def commands(self) -> str:
        """Channel: an operator wants something of a worker, which looks what; the content says nothing."""
        return f"{self.namespace}:commands"

    def asked(self, worker_id: str) -> str:
        """Key: the state that a worker was asked to be in."""
        return f"{self.namespace}:asked:{worker_id}"

    def asked_to_free(self, backend: str) -> str:
        """Key: a backend is to free its memory; gone when its driver has passed that on."""
        return f"{self.namespace}:asked-to-free:{backend}"

    def asked_to_run(self, task: str) -> str:
        """Key: a periodic task was asked to run now; the last run that was known then."""
        return f"{self.namespace}:asked-to-run:{task}"

    @property
    def questions(self) -> str:
        """Key: the number of the last question about what a backend offers."""
        return f"{self.namespace}:questions"

    @property
    def questions_asked(self) -> str:
        """Channel: there is a new question for the drivers of backends; messages are empty."""
        return f"{self.namespace}:questions-asked"

    def asked_to_read(self, backend: str) -> str:
        """Key: a hash, node class of a backend that is to be read again → number of the question."""
        return f"{self.namespace}:asked-to-read:{backend}"

    def read(self, backend: str, node_class: str) -> str:
        """Key: the number of the last question about a class that was answered."""
        return f"{self.namespace}:read:{backend}:{node_class}"
