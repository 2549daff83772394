"""Runs a module until its standard input ends: `python -m app.commands.die_with_parent MODULE ARGUMENTS`.

The input is a pipe that the parent process holds. The system closes it however that process ends, even when it is
killed. So no server of a killed `make up-dev` goes on running and keeps its port.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def _end_with_input() -> None:
    # Not by sys.stdin: the lock of its buffer, held here, would be a fatal error when the interpreter ends.
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, name="end-with-parent", daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
