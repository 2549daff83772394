"""TCP ports of this machine's loopback address."""

import socket
from typing import Final

HOST: Final = "127.0.0.1"
"""The only address an embedded server listens on."""


def free_port() -> int:
    """Return a port that nothing listens on; another process may take it before it is used."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` now."""
    # macOS lets a second server bind 127.0.0.1 beside one on 0.0.0.0, so binding alone does not tell.
    if is_listening(port):
        return False
    with socket.socket() as probe:
        # As servers do it: a port whose last connections linger in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def is_listening(port: int) -> bool:
    """Whether something accepts connections on `port`."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0
