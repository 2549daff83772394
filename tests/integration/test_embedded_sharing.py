"""One server for all processes of a data folder: the first starts it, the last stops it, whatever happens between."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import pytest

from app.embedded import EmbeddedError, Wanted, embedded_services, free_port, start, temporary_data_dir
from app.embedded.ports import is_listening
from app.embedded.processes import Process
from app.embedded.shared import State

pytestmark = pytest.mark.slow

USER = """
import subprocess, sys
from pathlib import Path
from app.embedded import Wanted, start

services = start(Wanted(Path(sys.argv[1]), **{sys.argv[2]: True}, redis_port=0, durable=False))
if sys.argv[3:]:
    subprocess.Popen(sys.argv[3:], close_fds=False)
print(services.running.database_url or services.running.redis_url, flush=True)
sys.stdin.read()
services.stop()
"""
"""A process that uses a server until its input ends."""
ROOT = Path(__file__).parents[2]
KINDS = ("postgres", "redis")


class User:
    """A process that uses a server."""

    def __init__(self, data_dir: Path, kind: str, *child: str) -> None:
        arguments = [sys.executable, "-c", USER, str(data_dir), kind, *child]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(arguments, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()

    def url(self) -> str:
        return self.process.stdout.readline().strip()

    def leave(self) -> None:
        self.process.communicate(timeout=30)
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def state(data_dir: Path, kind: str) -> State:
    return State.read(data_dir / kind / "state.json")


def is_running(server: State) -> bool:
    return server.process.is_alive() and is_listening(server.port)


def is_gone(server: State) -> bool:
    return not server.process.is_alive() and not is_listening(server.port)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with temporary_data_dir() as folder:
        yield folder
        end_all(folder)


@pytest.fixture(scope="module")
def used_dir_of_module() -> Iterator[Path]:
    with temporary_data_dir() as folder:
        yield folder


@pytest.fixture
def used_dir(used_dir_of_module: Path) -> Iterator[Path]:
    """A data folder that was used before, which spares the making of a cluster."""
    yield used_dir_of_module
    end_all(used_dir_of_module)


def end_all(data_dir: Path) -> None:
    """End what a failed test left."""
    for path in data_dir.glob("*/state.json"):
        process = State.read(path).process
        assert process is None or process.stop((signal.SIGQUIT, signal.SIGKILL))


@pytest.fixture
def people() -> Iterator[Callable[..., User]]:
    with ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(User(*arguments))


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen]:
    """A process that has nothing to do with any server."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        yield process


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_user_stops_the_server_and_no_other(kind, used_dir, people):
    first, second = people(used_dir, kind), people(used_dir, kind)
    assert first.url() == second.url()
    server = state(used_dir, kind)
    first.leave()
    assert is_running(server)
    assert state(used_dir, kind) == server
    second.leave()
    assert is_gone(server)


@pytest.mark.parametrize("kind", KINDS)
def test_users_who_come_at_the_same_moment_share_one_server(kind, data_dir, people):
    crowd = [people(data_dir, kind) for _ in range(4)]
    assert len({user.url() for user in crowd}) == 1
    server = state(data_dir, kind)
    for user in crowd:
        assert is_running(server)
        user.leave()
    assert is_gone(server)


@pytest.mark.parametrize("kind", KINDS)
def test_the_server_of_a_killed_user_is_adopted_and_then_stopped(kind, used_dir, people):
    killed = people(used_dir, kind)
    url = killed.url()
    server = state(used_dir, kind)
    killed.kill()
    assert is_running(server)
    heir = people(used_dir, kind)
    assert heir.url() == url
    assert state(used_dir, kind) == server
    heir.leave()
    assert is_gone(server)


@pytest.mark.parametrize("kind", KINDS)
def test_a_child_that_inherits_all_it_can_is_no_user(kind, used_dir, people):
    user = people(used_dir, kind, "cat")  # which lives until the user's input ends, not until the user does
    user.url()
    server = state(used_dir, kind)
    user.kill()
    heir = people(used_dir, kind)
    heir.url()
    heir.leave()
    assert is_gone(server)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc to look into")
def test_a_server_holds_no_lock_and_hears_no_ctrl_c(kind, used_dir):
    services = start(Wanted(used_dir, **{kind: True}, redis_port=0, durable=False))
    try:
        pid = state(used_dir, kind).process.pid
        held = {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
        assert not held & {str(used_dir / kind / name) for name in ("lock", "users")}
        assert os.getsid(pid) == pid
    finally:
        services.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_died_is_started_again_for_the_next_user(kind, used_dir):
    wanted = Wanted(used_dir, **{kind: True}, redis_port=0)
    first = start(wanted)
    died = state(used_dir, kind)
    assert died.process.stop([signal.SIGKILL])
    second = start(wanted)
    server = state(used_dir, kind)
    assert second.running == first.running
    second.stop()
    assert is_running(server)
    first.stop()
    assert is_gone(server)
    first.stop()  # harmless


def test_a_user_killed_while_starting_leaves_a_server_that_is_found(data_dir, people):
    hasty = people(data_dir, "redis")
    wait_until(lambda: state(data_dir, "redis").process is not None)
    hasty.kill()
    services = start(Wanted(data_dir, redis=True, redis_port=0))
    server = state(data_dir, "redis")
    services.stop()
    assert is_gone(server)


def test_a_process_that_got_the_number_of_a_dead_server_is_left_alone(data_dir, bystander):
    folder = data_dir / "redis"
    folder.mkdir()
    State(Process(bystander.pid, "long ago"), free_port()).write(folder / "state.json")
    services = start(Wanted(data_dir, redis=True, redis_port=0))
    assert state(data_dir, "redis").process.pid != bystander.pid
    State(Process(bystander.pid, "long ago"), free_port()).write(folder / "state.json.other")
    server = state(data_dir, "redis")
    shutil.move(folder / "state.json.other", folder / "state.json")
    services.stop()
    assert bystander.poll() is None
    assert server.process.stop([signal.SIGTERM])


def test_who_leaves_a_removed_folder_stops_its_own_server_and_not_the_new_one(data_dir):
    wanted = Wanted(data_dir, redis=True, redis_port=0, durable=False)
    early = start(wanted)
    old = state(data_dir, "redis")
    shutil.rmtree(data_dir / "redis")
    late = start(wanted)
    new = state(data_dir, "redis")
    early.stop()
    assert is_gone(old)
    assert is_running(new)
    late.stop()
    assert is_gone(new)


def test_when_one_server_cannot_be_had_the_others_are_stopped(data_dir):
    busy = start(Wanted(data_dir / "other", redis=True, redis_port=0))
    port = state(data_dir / "other", "redis").port
    try:
        with pytest.raises(EmbeddedError, match=f"Redis cannot have port {port}"):
            start(Wanted(data_dir, postgres=True, redis=True, redis_port=port, durable=False))
        assert state(data_dir, "postgres").process is None
        assert state(data_dir, "postgres").port
    finally:
        busy.stop()


async def test_a_cancelled_start_leaves_nothing_running(data_dir):
    async def use() -> None:
        async with embedded_services(Wanted(data_dir, redis=True, redis_port=0)):
            pytest.fail("cancelled before")

    task = asyncio.create_task(use())
    await asyncio.sleep(0)  # the thread has been given its work
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    known = json.loads((data_dir / "redis" / "state.json").read_text())
    assert known["pid"] is None
    assert not is_listening(known["port"])


async def test_an_error_in_the_block_stops_the_servers(data_dir):
    servers = []
    with suppress(ZeroDivisionError):
        async with embedded_services(Wanted(data_dir, redis=True, redis_port=0)):
            servers.append(state(data_dir, "redis"))
            raise ZeroDivisionError
    assert is_gone(servers[0])


@pytest.mark.skipif(find_spec("worker.standin.__main__") is None, reason="the stand-in is not there")
async def test_the_stand_in_is_shared_like_the_others(data_dir):
    async with embedded_services(Wanted(data_dir, standin_port=0)) as mine:
        server = state(data_dir, "standin")
        said: list[str] = []
        async with embedded_services(Wanted(data_dir, standin_port=free_port()), said.append) as yours:
            assert mine == yours
            assert "instead of" in said[0]
        assert is_running(server)
    assert is_gone(server)
