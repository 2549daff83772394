"""Running the project's commands as a person does: as processes, in a place of their own."""

from __future__ import annotations

import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from app.embedded import temporary_data_dir
from app.embedded.ports import is_free, is_listening
from app.embedded.shared import State
from app.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
WAIT_S = 90
"""Far more than anything takes here, on a busy machine too."""


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """Return different ports that nothing listens on, below those that systems give to outgoing connections."""
    return list(itertools.islice(filter(is_free, random.sample(range(20_000, 32_000), 1_000)), count))


class Background:
    """A command that runs until it is told to end."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def output(self) -> str:
        """All that it has said, on either stream."""
        return self._output.read_text(errors="replace")

    def says(self, text: str) -> None:
        """Wait until it has said this."""
        eventually(lambda: text in self.output or self.process.poll() is not None, f"{text!r} in {self.output}")
        assert text in self.output, self.output

    def ends(self, *signals: signal.Signals) -> int:
        """Send signals, wait for its end, and return the exit code."""
        for number in signals:
            self.process.send_signal(number)
        return self.process.wait(WAIT_S)

    def children(self) -> dict[str, int]:
        """Return the processes of `up` and `demo`: module → process number."""
        found = {}
        for pid, command in _processes("cmdline").items():
            words = command.decode(errors="replace").split("\0")
            parent = _stat(pid)
            if "app.commands.die_with_parent" in words and parent == self.process.pid:
                found[words[words.index("app.commands.die_with_parent") + 1]] = pid
        return found


class Place:
    """A data folder and ports of their own, where everything that the settings of a test leave open is started."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.api_port, self.monitor_port, self.standin_port, self.redis_port = free_ports(4)
        self._numbers = itertools.count(1)
        inherited = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
        self.environment = inherited | {
            "DATA_DIR": str(data_dir),
            "API_PORT": str(self.api_port),
            "MONITOR_PORT": str(self.monitor_port),
            "STANDIN_PORT": str(self.standin_port),
            "REDIS_PORT": str(self.redis_port),
            # As empty as in a fresh clone, whatever env/.env.local says here.
            "DATABASE_URL": "",
            "REDIS_URL": "",
            "COMFYUI_URLS": "",
            "STORAGE_DIR": "",
            "PYTHONUNBUFFERED": "1",
            "PYTHONIOENCODING": "utf-8",
        }

    def run(
        self,
        *arguments: str,
        cwd: Path = ROOT,
        program: tuple[str, ...] = (sys.executable, "-m", "app"),
        **settings: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [*program, *arguments],
            cwd=cwd,
            env=self.environment | settings,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=WAIT_S,
        )

    @contextmanager
    def running(self, *arguments: str, module: str = "app", cwd: Path = ROOT, **settings: str) -> Iterator[Background]:
        """Have a command running in the block; it is killed in the end, if the block has not ended it."""
        output = self.data_dir / f"output-{next(self._numbers)}"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=cwd,
                env=self.environment | settings,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        with process:
            try:
                yield Background(process, output)
            finally:
                process.kill()

    def server(self, kind: str) -> State:
        """Return what is written down about an embedded server of this place."""
        return State.read(self.data_dir / kind / "state.json")

    def left_behind(self) -> list[str]:
        """Return the commands of processes that belong to this place."""
        mark = os.fsencode(self.data_dir)
        commands = _processes("cmdline")
        left = {pid for what in ("cmdline", "environ") for pid, text in _processes(what).items() if mark in text}
        servers = (self.server(kind).process for kind in ("postgres", "redis", "standin"))
        left |= {process.pid for process in servers if process is not None and process.is_alive()}
        return [commands.get(pid, b"?").replace(b"\0", b" ").decode(errors="replace") for pid in left]

    def is_quiet(self) -> bool:
        """Whether nothing of this place runs, and nothing listens on its ports."""
        ports = (self.api_port, self.monitor_port, self.standin_port, self.redis_port)
        return not self.left_behind() and not any(map(is_listening, ports))

    def end_servers(self) -> None:
        """End the embedded servers that a failed test left."""
        for kind in ("postgres", "redis", "standin"):
            process = self.server(kind).process
            if process is not None:
                process.stop((signal.SIGQUIT, signal.SIGKILL))


@contextmanager
def temporary_place() -> Iterator[Place]:
    """Have a place, in which nothing runs in the end."""
    with temporary_data_dir() as folder:
        place = Place(folder)
        try:
            yield place
        finally:
            place.end_servers()


@contextmanager
def taken(port: int) -> Iterator[None]:
    """Have a stranger listen on a port."""
    with socket.create_server(("127.0.0.1", port)):
        yield


def _processes(what: str) -> dict[int, bytes]:
    """Return a file of each process in /proc, which not every system has; what is not ours to read is left out."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            found[int(path.name)] = (path / what).read_bytes()
        except OSError:
            continue
    return found


def _stat(pid: int) -> int:
    """Return the parent of a process."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
