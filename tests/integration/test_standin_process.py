"""The stand-in as a process: start, signals, crash, and what a client sees of them."""

import asyncio
import contextlib
import json
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from harness import GUARD_S

pytestmark = pytest.mark.slow

CAPTURES = Path(__file__).parents[1] / "data" / "comfyui-captures"
ROOT = Path(__file__).parents[2]
START_SECONDS = GUARD_S
PORT = 8189


def own_host() -> str:
    """Return an address of this machine that no other test uses, so that no port has to be free that was just free."""
    return f"127.{secrets.randbelow(254) + 1}.{secrets.randbelow(254) + 1}.{secrets.randbelow(254) + 1}"


@contextlib.asynccontextmanager
async def process(host: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start a stand-in, wait until it answers, and see to it that it ends."""
    command = ["-W", "error", "-m", "worker.standin", "--host", host, "--port", str(PORT), *arguments]
    running = await asyncio.create_subprocess_exec(
        sys.executable, *command, cwd=ROOT, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert running.stderr is not None
        line = await asyncio.wait_for(running.stderr.readline(), START_SECONDS)
        assert b"listens on" in line, line
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


def posted(name: str) -> list[dict[str, Any]]:
    """Return the bodies of the prompts in a capture."""
    rows = json.loads((CAPTURES / f"{name}.json").read_text())
    requests = [row["data"] for row in rows if row["kind"] == "http_request"]
    return [request["body"] for request in requests if request["method"] == "POST" and request["path"] == "/prompt"]


@pytest.mark.parametrize("name", ["sigkill", "sigterm", "sigint"])
async def test_a_killed_server_is_lost_as_recorded(name: str, tmp_path: Path) -> None:
    running_job, queued_job, later_job = posted(f"server-killed-mid-run-{name}")
    client_id = running_job["client_id"]
    host = own_host()
    async with aiohttp.ClientSession(f"http://{host}:{PORT}") as session:
        async with process(host, "--directory", str(tmp_path), "--comfyui-version", "0.3.64") as server:
            ws = await session.ws_connect(f"/ws?clientId={client_id}")
            for body in (running_job, queued_job):
                async with session.post("/prompt", json=body) as response:
                    assert response.status == 200
            while '"progress", "data": {"value": 3' not in (await ws.receive_str()):
                pass
            server.send_signal(getattr(signal, name.upper()))
            code = await server.wait()
            while not ws.closed:
                await ws.receive()
            assert ws.close_code == 1006
            assert code == (-signal.SIGKILL if name == "sigkill" else 0)
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get("/queue")
        async with process(host, "--directory", str(tmp_path), "--comfyui-version", "0.3.64"):
            ws = await session.ws_connect(f"/ws?clientId={client_id}")
            async with session.get("/queue") as response:
                assert await response.json() == {"queue_running": [], "queue_pending": []}
            for prompt_id in ("running-job", "queued-job"):
                async with session.get(f"/history/{prompt_id}") as response:
                    assert await response.json() == {}
            async with session.post("/prompt", json=later_job) as response:
                assert (await response.json())["number"] == 0
            while '"node": null' not in await ws.receive_str():
                pass
            await ws.close()


async def test_a_list_as_client_id_ends_the_process_with_code_1() -> None:
    host = own_host()
    async with process(host) as server, aiohttp.ClientSession(f"http://{host}:{PORT}") as session:
        graph = posted("success-model-free")[0]["prompt"]
        with contextlib.suppress(aiohttp.ClientConnectionError):
            await session.post("/prompt", json={"prompt": graph, "client_id": ["x"]})
        assert await asyncio.wait_for(server.wait(), START_SECONDS) == 1


async def test_a_taken_port_or_a_wrong_option_stops_the_start() -> None:
    host = own_host()
    async with process(host):
        second = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "worker.standin",
            "--host",
            host,
            "--port",
            str(PORT),
            cwd=ROOT,
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await asyncio.wait_for(second.communicate(), START_SECONDS)
        assert second.returncode == 1
        assert b"Cannot start" in errors


async def test_faults_can_be_armed_on_the_command_line() -> None:
    host = own_host()
    fault = json.dumps({"kind": "refuse_prompt", "status": 503})
    async with process(host, "--fault", fault), aiohttp.ClientSession(f"http://{host}:{PORT}") as session:
        async with session.post("/prompt", json={}) as response:
            assert response.status == 503
        async with session.post("/prompt", json={}) as response:
            assert response.status == 400


async def test_the_server_answers_while_it_draws() -> None:
    host = own_host()
    graph = posted("success-text-to-image-legacy-previews")[0]["prompt"]
    graph["4"]["inputs"]["ckpt_name"] = "sd_xl_base_1.0.safetensors"
    graph["5"]["inputs"].update(width=1024, height=1024)
    async with process(host, "--speed", "50"), aiohttp.ClientSession(f"http://{host}:{PORT}") as session:
        async with session.post("/prompt", json={"prompt": graph}) as response:
            assert response.status == 200
        began, waits, left = time.monotonic(), [0.0], 1
        while left:
            started = time.monotonic()
            async with session.get("/prompt") as response:
                left = (await response.json())["exec_info"]["queue_remaining"]
            waits.append(time.monotonic() - started)
        # Compared with the whole, which a busy machine makes longer as well: drawing is most of it.
        assert max(waits) < (time.monotonic() - began) / 2
