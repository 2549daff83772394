"""nginx as the manual configures it, in front of a server of a test."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import pytest

from app.embedded.ports import free_port
from app.settings import ROOT
from harness import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NGINX: Final = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
WITH_NGINX: Final = [
    pytest.mark.slow,
    pytest.mark.skipif(NGINX is None, reason="There is no nginx: install Debian's package nginx-light."),
]
"""Marks of modules whose tests run nginx."""
MANUAL: Final = ROOT / "app" / "manual" / "production.md"
CERTIFICATE: Final = ROOT / "tests" / "data" / "tls" / "files.example.pem"

_WHOLE: Final = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{}}
http {{
access_log off;
client_body_temp_path {folder}/body;
proxy_temp_path {folder}/proxy;
fastcgi_temp_path {folder}/fastcgi;
uwsgi_temp_path {folder}/uwsgi;
scgi_temp_path {folder}/scgi;
{of_the_manual}
}}
"""


def example(port: int, behind: int) -> str:
    """Return the manual's example, with these ports and the tests' certificate."""
    (found,) = re.findall(r"```nginx\n(.*?)```", MANUAL.read_text(encoding="utf-8"), re.DOTALL)
    changes = {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "127.0.0.1:8001": f"127.0.0.1:{behind}",
        "/etc/ssl/own.example.com.pem": str(CERTIFICATE),
        "/etc/ssl/own.example.com.key": str(CERTIFICATE),
    }
    for text, other in changes.items():
        assert found.count(text) == 1, text
        found = found.replace(text, other)
    return found


@asynccontextmanager
async def nginx(folder: Path, behind: int) -> AsyncIterator[int]:
    """Run nginx in front of this port; yields its own, at which it speaks TLS."""
    assert NGINX is not None
    port, config = free_port(), folder / "nginx.conf"
    config.write_text(_WHOLE.format(folder=folder, of_the_manual=example(port, behind)), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        *(NGINX, "-c", str(config), "-p", str(folder), "-e", "stderr"), stderr=asyncio.subprocess.PIPE
    )

    async def listens() -> bool:
        assert process.returncode is None, "nginx has ended"
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    try:
        await eventually(listens)
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        _, said = await process.communicate()
    assert said == b"", said.decode()
