"""The stand-in for ComfyUI as a shared server of its own."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import ClassVar, Final

from app.embedded.ports import HOST
from app.embedded.processes import Command, Process
from app.embedded.shared import Say, Server

CODE: Final = Path(__file__).parents[2]
"""The folder that `app` and `worker` are in."""


class StandinServer(Server):
    """The stand-in, run by the Python that runs us."""

    name: ClassVar = "The ComfyUI stand-in"
    stop_signals: ClassVar = (signal.SIGTERM, signal.SIGKILL)

    def commands(self, say: Say) -> Iterator[Callable[[int], Command]]:
        """Yield the one way to run it."""
        say("starting the ComfyUI stand-in")
        module = [sys.executable, "-m", "worker.standin", "--host", HOST, "--port"]
        yield lambda port: Command([*module, str(port)], folder=CODE, environment=os.environ)

    def is_ready(self, process: Process, port: int) -> bool:
        """Ask what ComfyUI's clients ask first; not by way of a proxy."""
        with closing(HTTPConnection(HOST, port, timeout=5)) as connection:
            try:
                connection.request("GET", "/system_stats")
                answered = connection.getresponse().status == 200
            except (OSError, HTTPException):
                return False
        return answered and process.is_alive()

    def url(self, port: int) -> str:
        """Return its base URL."""
        return f"http://{HOST}:{port}"
