"""Everything in one terminal: whatever ends it, nothing of it stays behind."""

import os
import re
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from acceptance.commands import Background, Place, eventually, temporary_place

from app.embedded.ports import is_listening

pytestmark = pytest.mark.slow

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes by /proc")


@pytest.fixture(scope="module")
def place_of_module() -> Iterator[Place]:
    with temporary_place() as found:
        yield found


@pytest.fixture
def place(place_of_module: Place) -> Iterator[Place]:
    """A place that may have been used before, which spares the making of a cluster."""
    yield place_of_module
    place_of_module.end_servers()


@contextmanager
def everything(place: Place) -> Iterator[Background]:
    """Have all of it up in the block, and see that nothing is left after it."""
    with place.running("up", "--env", "test") as up:
        up.says("[worker] Genonaut worker")
        up.says("[app] Genonaut serves")
        yield up
    eventually(place.is_quiet, "everything has ended")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_everything(place, number):
    with everything(place) as up:
        assert live(place) == 200
        assert up.ends(number) == 0
        assert place.left_behind() == []
    assert "Traceback" not in up.output


def test_ctrl_c_while_it_starts_leaves_nothing():
    with temporary_place() as place, place.running("up", "--env", "test") as up:
        up.says("starting PostgreSQL")
        assert up.ends(signal.SIGINT) == 130
        assert place.left_behind() == []
        assert "Traceback" not in up.output


def live(place: Place) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{place.api_port}/health/live") as answer:
        return int(answer.status)


def comes_again(up: Background, line: str, times: int = 2) -> None:
    """Wait until it has said the line so often."""
    eventually(lambda: up.output.count(line) >= times or up.process.poll() is not None, f"{line} again")
    assert up.output.count(line) == times, up.output


@needs_proc
def test_a_worker_that_dies_is_started_again_and_the_server_stays(place):
    with everything(place) as up:
        first = up.children()
        os.kill(first["worker"], signal.SIGKILL)
        up.says("The worker has ended by itself, by SIGKILL; it is started again in 1 s.\n")
        assert live(place) == 200
        comes_again(up, "[worker] Genonaut worker")
        second = up.children()
        assert (second["app"], second["worker"] != first["worker"]) == (first["app"], True)
        os.kill(second["worker"], signal.SIGKILL)
        up.says("it is started again in 2 s.\n")
        # While it waits for that, too.
        assert up.ends(signal.SIGINT) == 0
    assert "Traceback" not in up.output


@needs_proc
def test_a_server_that_dies_is_started_again_and_the_worker_stays(place):
    with everything(place) as up:
        first = up.children()
        os.kill(first["app"], signal.SIGKILL)
        up.says("The app has ended by itself, by SIGKILL; it is started again in 1 s.\n")
        comes_again(up, "[app] Genonaut serves")
        assert live(place) == 200
        assert up.children()["worker"] == first["worker"]
        assert up.ends(signal.SIGINT) == 0
    assert "Traceback" not in up.output


def test_a_standin_that_dies_is_started_again(place):
    with everything(place) as up:
        port = place.server("standin").port
        os.kill(place.server("standin").process.pid, signal.SIGKILL)
        up.says("The ComfyUI stand-in has ended by itself; it is started again in 1 s.\n")
        eventually(lambda: is_listening(port), "it is there again")
        assert live(place) == 200
        assert up.ends(signal.SIGINT) == 0
    assert "Traceback" not in up.output


@needs_proc
def test_when_a_worker_leaves_in_good_order_everything_else_goes_on(place):
    with everything(place) as up:
        os.kill(up.children()["worker"], signal.SIGTERM)
        up.says("The worker has ended, as it was asked to; everything else goes on.")
        assert live(place) == 200
        assert up.ends(signal.SIGINT) == 0
    assert "Traceback" not in up.output


@pytest.mark.parametrize(("kind", "name"), [("redis", "Redis"), ("postgres", "PostgreSQL")])
def test_when_an_embedded_database_dies_everything_is_stopped(place, kind, name):
    with everything(place) as up:
        os.kill(place.server(kind).process.pid, signal.SIGKILL)
        assert up.ends() == 1
    assert f"{name} has ended by itself; everything is stopped. Its log: {place.data_dir / kind / 'log'}\n" in up.output


def test_a_killed_one_takes_everything_with_it(place):
    with everything(place) as up:
        assert up.ends(signal.SIGKILL) == -signal.SIGKILL


@needs_proc
def test_a_second_ctrl_c_kills_what_does_not_end(place):
    with everything(place) as up:
        worker = up.children()["worker"]
        os.kill(worker, signal.SIGSTOP)
        up.process.send_signal(signal.SIGINT)
        up.says("Stopping everything")
        assert up.ends(signal.SIGINT) == 0
        assert "The worker has not ended; it is killed." in up.output


async def test_a_process_that_does_not_start_is_named_and_says_why(place, empty_database_url):
    # Only an embedded database is migrated by itself.
    with place.running("up", "--env", "test", DATABASE_URL=empty_database_url) as up:
        assert up.ends() == 1
    assert re.search(r"^\[(app|worker)\] The database has no schema yet.* make migrate-test$", up.output, re.MULTILINE)
    assert re.search(r"^The (app|worker) has ended by itself, with exit code 1", up.output, re.MULTILINE)
    assert place.is_quiet()
