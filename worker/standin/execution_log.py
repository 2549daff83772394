"""What was executed, kept beyond a restart: proof that no prompt ran twice."""

import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """How an execution ended."""

    RUNNING = "running"
    SUCCESS = "success"
    ERROR = "error"
    INTERRUPTED = "interrupted"
    LOST = "lost"
    """The server was restarted or the execution thread died."""


@dataclass(slots=True, kw_only=True)
class Execution:
    """One start of one prompt; times are Unix seconds."""

    prompt_id: str
    number: float
    client_id: Any
    started: float = field(default_factory=time.time)
    ended: float | None = None
    outcome: Outcome = Outcome.RUNNING
    nodes: list[str] = field(default_factory=list)
    """Nodes that really ran, in order; cached ones are not among them."""
    cached: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    """Files written, as `subfolder/filename`."""

    def end(self, outcome: Outcome) -> None:
        """Record how it ended, once."""
        if self.ended is None:
            self.ended, self.outcome = time.time(), outcome


class ExecutionLog:
    """Executions in the order of their start, accepted prompts, and a count of requests."""

    def __init__(self) -> None:
        self.executions: list[Execution] = []
        self.accepted: list[str] = []
        self.requests: Counter[str] = Counter()
        self.restarts = 0

    def start(self, prompt_id: str, number: float, client_id: Any) -> Execution:
        """Record that a prompt starts to run."""
        execution = Execution(prompt_id=prompt_id, number=number, client_id=client_id)
        self.executions.append(execution)
        return execution

    def starts(self, prompt_id: str) -> int:
        """How often the prompt of this id was started."""
        return sum(execution.prompt_id == prompt_id for execution in self.executions)

    def as_json(self) -> dict[str, Any]:
        """Return everything as `GET /standin/log` shows it."""
        return {
            "executions": [asdict(execution) for execution in self.executions],
            "accepted": self.accepted,
            "requests": dict(self.requests),
            "restarts": self.restarts,
        }
