"""Server processes: started so that none is lost, known by more than their number, and ended."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypedDict

from app.embedded.locks import POLL_S

ESCALATE_S: Final = 10.0
"""How long a process may take to follow one signal before it gets the next."""
GATE: Final = 'read -r _ && exec "$@"'
"""Waits for a line and becomes the server; without one, because the starter died, it ends.

It reads no further than that line: what follows is the server's own input, and then there is an end.
"""


@dataclass(frozen=True, slots=True)
class Account:
    """The user of this machine that a server runs as."""

    name: str
    uid: int
    gid: int


class RunAs(TypedDict, total=False):
    """The part of `subprocess.Popen`'s arguments that changes the user."""

    user: int
    group: int
    extra_groups: list[int]


def run_as(account: Account | None) -> RunAs:
    """Return the arguments that make `subprocess` run as `account`; None means as ourselves."""
    if account is None:
        return {}
    return {"user": account.uid, "group": account.gid, "extra_groups": []}


@dataclass(frozen=True, slots=True)
class Process:
    """A process by number and start time: the number alone may belong to another process by now."""

    pid: int
    started: str
    """When it started, in whatever form the system tells it; only ever compared."""

    def is_alive(self) -> bool:
        """Whether it still runs; a dead child that was not waited for does not."""
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        return start_time(self.pid) == self.started

    def stop(self, signals: Sequence[signal.Signals]) -> bool:
        """Send one signal after another until it has ended; return whether it has."""
        for number in signals:
            if not self.is_alive():
                break
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)
            deadline = time.monotonic() + ESCALATE_S
            while self.is_alive() and time.monotonic() < deadline:
                time.sleep(POLL_S)
        return not self.is_alive()


def start_time(pid: int) -> str | None:
    """Return when the process started, None when there is no such process or it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None if Path("/proc/self/stat").exists() else start_time_by_ps(pid)
    # proc(5): what follows the parenthesised name are state (3rd field) and, as 22nd, the start in ticks since boot.
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    boot = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {fields[19]}"


def start_time_by_ps(pid: int) -> str | None:
    """Ask `ps`, where there is no /proc: macOS."""
    command = ["ps", "-o", "stat=", "-o", "lstart=", "-p", str(pid)]
    environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}
    told = subprocess.run(  # noqa: S603  # our own words
        command, capture_output=True, text=True, check=False, env=environment
    )
    state, _, started = told.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else started.strip()


def server_environment() -> dict[str, str]:
    """Return the part of our environment that a server needs: the rest may hold secrets, or settings of another."""
    prefixes, names = ("LC_", "LD_", "DYLD_"), {"PATH", "LANG", "TZ", "TMPDIR"}
    return {name: value for name, value in os.environ.items() if name in names or name.startswith(prefixes)}


@dataclass(frozen=True, slots=True)
class Command:
    """How to run one server."""

    arguments: Sequence[str]
    folder: Path = Path("/")
    """The working directory."""
    account: Account | None = None
    environment: Mapping[str, str] = field(default_factory=server_environment)
    told: str = field(default="", repr=False)
    """What it reads from its input, which no other user can read; arguments can be read by all."""


def launch(command: Command, log: int, record: Callable[[Process], None]) -> Process:
    """Start a server in a session of its own, its output going to the open file `log`.

    It begins only after `record` has returned, so that a starter killed at any moment leaves no server unrecorded.
    """
    child = subprocess.Popen(  # noqa: S603  # the words are ours, and are no shell text
        ["/bin/sh", "-c", GATE, "sh", *command.arguments],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        cwd=command.folder,
        env=command.environment,
        umask=0o077,
        start_new_session=True,  # a terminal's Ctrl-C is for its users, the last of which stops it
        **run_as(command.account),
    )
    assert child.stdin is not None  # noqa: S101  # for the type checker: we asked for a pipe
    # It may outlive us, so the Popen object is not to wait for it nor to warn about it.
    child.returncode = 0
    process = Process(child.pid, start_time(child.pid) or "ended at once")
    with suppress(BrokenPipeError), child.stdin as gate:
        record(process)
        gate.write(b"go\n" + command.told.encode())
    return process
