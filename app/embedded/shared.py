"""One server shared by many processes: the first one starts it, the last one stops it."""

import json
import os
import secrets
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Self

from app.embedded.errors import EmbeddedError
from app.embedded.locks import POLL_S, FileLock
from app.embedded.ports import free_port, is_free
from app.embedded.processes import Command, Process, launch

Say = Callable[[str], None]
"""Tells the user something, in one line; called from any thread."""

READY_S: Final = 60.0
"""How long a server may take to answer: recovery after a crash is included."""
LOG_LIMIT_BYTES: Final = 5_000_000
"""A longer log is begun anew at the next start."""
PORT_TRIES: Final = 3
"""Starts before giving up when others take the port between our look and the server's."""


@dataclass(frozen=True, slots=True)
class State:
    """What is written down about a server; the port is remembered when it is stopped."""

    process: Process | None = None
    port: int | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return what `path` says, or that nothing is known."""
        try:
            known = json.loads(path.read_text())
            running = known["pid"] is not None
            return cls(Process(int(known["pid"]), str(known["started"])) if running else None, int(known["port"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return cls()

    def write(self, path: Path) -> None:
        """Replace the file at once, so that no reader sees half of it."""
        pid, started = (self.process.pid, self.process.started) if self.process else (None, None)
        fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        fresh.write_text(json.dumps({"pid": pid, "started": started, "port": self.port}))
        fresh.replace(path)


class Server(ABC):
    """One kind of server: where it lives, how it is run, when it is ready."""

    name: ClassVar[str]
    stop_signals: ClassVar[Sequence[signal.Signals]]

    def __init__(self, folder: Path, port: int | None = None, usual_port: int | None = None) -> None:
        self.folder = folder
        self.port = port
        """The port it must have; None or 0: any."""
        self.usual_port = usual_port
        """The port it gets when that is free and none is required."""

    @abstractmethod
    def commands(self, say: Say) -> Iterator[Callable[[int], Command]]:
        """Yield the ways to run it on a given port, best first, each one prepared before it is yielded.

        Raises
        ------
        EmbeddedError
            There is none.
        """

    @abstractmethod
    def is_ready(self, process: Process, port: int) -> bool:
        """Whether `process`, and no other, serves on `port`."""

    def complete(self, port: int) -> None:  # noqa: B027  # most need nothing
        """Make what users expect to find in a server that is ready."""

    @abstractmethod
    def url(self, port: int) -> str:
        """Return where clients reach it."""


class Share:
    """One user's part in a shared server.

    `lock` is held while the server is looked for, started or stopped. On `users` everybody who uses the server holds a
    shared lock; one who leaves and can get it alone was the last. The kernel releases both when a process is killed.
    """

    def __init__(self, server: Server, say: Say) -> None:
        self._server = server
        self._say = say
        self._state_path = server.folder / "state.json"
        self._log_path = server.folder / "log"
        self._log_start = 0
        self._lock: FileLock | None = None
        self._users: FileLock | None = None
        self._state = State()

    def enter(self) -> int:
        """Find the server running or start it, and return its port.

        Raises
        ------
        EmbeddedError
            It cannot be had.
        """
        try:
            return self._enter()
        except OSError as error:
            raise EmbeddedError(f"{self._server.name} cannot be started: {error}") from error

    def _enter(self) -> int:
        while True:
            self._server.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._server.folder / "lock")
            try:
                with lock.held():
                    if lock.is_current():  # else the folder was removed while we waited
                        return self._enter_alone(lock)
            finally:
                if self._lock is not lock:
                    lock.close()

    def _enter_alone(self, lock: FileLock) -> int:
        self._users = FileLock(self._server.folder / "users")
        try:
            self._users.share()
            port = self._find() or self._start()
            self._server.complete(port)
        except BaseException:
            self._leave_alone()
            raise
        self._lock = lock
        return port

    def leave(self) -> None:
        """Stop using the server, and stop it if no other process uses it; a second call does nothing.

        Raises
        ------
        EmbeddedError
            It does not end.
        """
        if self._lock is None:
            return
        try:
            with self._lock.held():
                self._leave_alone()
        except OSError as error:
            raise EmbeddedError(f"{self._server.name} cannot be stopped: {error}") from error
        finally:
            self._lock.close()
            self._lock = None

    def _leave_alone(self) -> None:
        if self._users is None:
            return
        try:
            if self._users.take_over():
                self._stop()
        finally:
            self._users.close()
            self._users = None

    def _stop(self) -> None:
        assert self._users is not None  # noqa: S101  # for the type checker: only the last user stops
        # Another user may have restarted it since we came, which the file knows. In a folder that was removed and made
        # anew, the file tells of a server that is none of ours.
        current = self._users.is_current()
        state = State.read(self._state_path) if current else self._state
        if state.process is None:
            return
        if not state.process.stop(self._server.stop_signals):
            raise EmbeddedError(f"{self._server.name} (process {state.process.pid}) does not end")
        if current:
            State(None, state.port).write(self._state_path)

    def _find(self) -> int | None:
        """Return the port of the server that runs already; None when there is none."""
        self._state = State.read(self._state_path)
        process, port = self._state.process, self._state.port
        if process is None or port is None or not process.is_alive() or not self._becomes_ready(process, port):
            return None
        if self._server.port and self._server.port != port:
            self._say(f"{self._server.name} is running already, on port {port} instead of {self._server.port}")
        return port

    def _start(self) -> int:
        for command in self._server.commands(self._say):
            for _ in range(PORT_TRIES):
                port = self._choose_port()
                if self._run(command(port), port):
                    return port
                if is_free(port):  # then that was not the reason
                    break
        tail = self._log_tail()
        raise EmbeddedError(f"{self._server.name} does not start; its log {self._log_path} ends with:\n{tail}")

    def _choose_port(self) -> int:
        name, wanted, usual = self._server.name, self._server.port, self._server.usual_port
        if wanted:
            if is_free(wanted):
                return wanted
            raise EmbeddedError(f"{name} cannot have port {wanted}: another program listens on it")
        if usual and is_free(usual):
            return usual
        remembered = self._state.port
        port = remembered if remembered and is_free(remembered) else free_port()
        if usual:
            self._say(f"{name} gets port {port}, because another program listens on {usual}")
        return port

    def _run(self, command: Command, port: int) -> bool:
        """Start it and wait until it is ready; False when it ended instead."""

        def record(process: Process) -> None:
            self._state = State(process, port)
            self._state.write(self._state_path)

        log = os.open(self._log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(log).st_size > LOG_LIMIT_BYTES:
                os.ftruncate(log, 0)
            self._log_start = os.fstat(log).st_size
            process = launch(command, log, record)
        finally:
            os.close(log)
        return self._becomes_ready(process, port)

    def _becomes_ready(self, process: Process, port: int) -> bool:
        """Wait until it is ready; False when it ends before that.

        Raises
        ------
        EmbeddedError
            It does neither in time.
        """
        deadline = time.monotonic() + READY_S
        while process.is_alive():
            if self._server.is_ready(process, port):
                return True
            if time.monotonic() > deadline:
                raise EmbeddedError(
                    f"{self._server.name} (process {process.pid}) is not ready after {READY_S:.0f} s; "
                    f"its log {self._log_path} ends with:\n{self._log_tail()}"
                )
            time.sleep(POLL_S)
        return False

    def _log_tail(self) -> str:
        """Return the last lines that the latest start wrote."""
        with self._log_path.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-10:])
