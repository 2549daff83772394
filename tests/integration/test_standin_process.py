"""The stand-in as a process: start, signals, crash, and what a client sees of them."""

import asyncio
import contextlib
import json
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

pytestmark = pytest.mark.slow

CAPTURES = Path(__file__).parents[1] / "data" / "comfyui-captures"
ROOT = Path(__file__).parents[2]
START_SECONDS = 20.0


def free_port() -> int:
    """Return a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def process(port: int, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start a stand-in, wait until it answers, and see to it that it ends."""
    command = ["-W", "error", "-m", "worker.standin", "--port", str(port), *arguments]
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
    port = free_port()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        async with process(port, "--directory", str(tmp_path), "--comfyui-version", "0.3.64") as server:
            ws = await session.ws_connect(f"/ws?clientId={client_id}")
            for body in (running_job, queued_job):
                async with session.post("/prompt", json=body) as response:
                    assert response.status == 200
            while '"progress", "data": {"value": 3' not in (await ws.receive_str()):
                pass
            started = time.monotonic()
            server.send_signal(getattr(signal, name.upper()))
            code = await server.wait()
            while not ws.closed:
                await ws.receive()
            assert ws.close_code == 1006
            assert time.monotonic() - started < 1.5, "aimed at: below one second"
            assert code == (-signal.SIGKILL if name == "sigkill" else 0)
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get("/queue")
        async with process(port, "--directory", str(tmp_path), "--comfyui-version", "0.3.64"):
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
    port = free_port()
    async with process(port) as server, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        graph = posted("success-model-free")[0]["prompt"]
        with contextlib.suppress(aiohttp.ClientConnectionError):
            await session.post("/prompt", json={"prompt": graph, "client_id": ["x"]})
        assert await asyncio.wait_for(server.wait(), 5) == 1


async def test_a_taken_port_or_a_wrong_option_stops_the_start() -> None:
    port = free_port()
    async with process(port):
        second = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "worker.standin", "--port", str(port), cwd=ROOT, stderr=asyncio.subprocess.PIPE
        )
        _, errors = await asyncio.wait_for(second.communicate(), START_SECONDS)
        assert second.returncode == 1
        assert b"Cannot start" in errors


async def test_faults_can_be_armed_on_the_command_line() -> None:
    port = free_port()
    fault = json.dumps({"kind": "refuse_prompt", "status": 503})
    async with process(port, "--fault", fault), aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        async with session.post("/prompt", json={}) as response:
            assert response.status == 503
        async with session.post("/prompt", json={}) as response:
            assert response.status == 400


async def test_the_server_answers_while_it_draws() -> None:
    port = free_port()
    graph = posted("success-text-to-image-legacy-previews")[0]["prompt"]
    graph["4"]["inputs"]["ckpt_name"] = "sd_xl_base_1.0.safetensors"
    graph["5"]["inputs"].update(width=1024, height=1024)
    async with process(port, "--speed", "50"), aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        async with session.post("/prompt", json={"prompt": graph}) as response:
            assert response.status == 200
        worst, left = 0.0, 1
        while left:
            started = time.monotonic()
            async with session.get("/prompt") as response:
                left = (await response.json())["exec_info"]["queue_remaining"]
            worst = max(worst, time.monotonic() - started)
        assert worst < 0.5
