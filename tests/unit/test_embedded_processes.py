"""Server processes are known by number and start time, and none runs unrecorded."""

import os
import signal
import subprocess
import time

import pytest

from app.embedded.processes import Command, Process, launch, server_environment, start_time, start_time_by_ps
from app.embedded.redis_server import read_config
from app.embedded.shared import State
from harness import GUARD_S


def test_a_process_is_alive_until_it_ends_even_if_nobody_waited_for_it():
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        process = Process(child.pid, start_time(child.pid))
        assert process.is_alive()
        assert not Process(child.pid, "another time").is_alive()
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and not waited for
        assert start_time(child.pid) is None


def test_ps_tells_it_where_there_is_no_proc():
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        started = start_time_by_ps(child.pid)
        assert started
        assert started == start_time_by_ps(child.pid)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert start_time_by_ps(child.pid) is None
    assert start_time_by_ps(child.pid) is None


def test_a_server_does_not_begin_before_it_is_recorded(tmp_path):
    began, log = tmp_path / "began", os.open(os.devnull, os.O_WRONLY)
    known: list[Process] = []

    def record(process: Process) -> None:
        known.append(process)
        raise KeyboardInterrupt  # as near to a kill as a test gets

    with pytest.raises(KeyboardInterrupt):
        launch(Command(["touch", str(began)]), log, record)
    os.close(log)
    deadline = time.monotonic() + GUARD_S
    while known[0].is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert not began.exists()


def test_who_ignores_a_signal_gets_the_next(monkeypatch, tmp_path):
    monkeypatch.setattr("app.embedded.processes.ESCALATE_S", 0.2)
    with (tmp_path / "log").open("w+") as log:
        script = "trap '' TERM; echo ready; while :; do read -r _ || exec sleep 60; done"
        process = launch(Command(["sh", "-c", script]), log.fileno(), lambda _: None)
        deadline = time.monotonic() + GUARD_S
        while not (tmp_path / "log").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.002)
        assert process.stop([signal.SIGTERM, signal.SIGKILL])


def test_servers_do_not_get_our_secrets(monkeypatch):
    monkeypatch.setenv("DATABASE_PASSWORD", "secret")
    monkeypatch.setenv("PGDATA", "/elsewhere")
    environment = server_environment()
    assert environment["PATH"] == os.environ["PATH"]
    assert not {"DATABASE_PASSWORD", "PGDATA"} & set(environment)


@pytest.mark.parametrize("state", [State(), State(None, 1234), State(Process(7, "once"), 1234)])
def test_a_state_is_read_as_it_was_written(state, tmp_path):
    state.write(tmp_path / "state")
    assert State.read(tmp_path / "state") == state
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"pid": "x", "started": "", "port": 1}'])
def test_a_broken_state_says_nothing(text, tmp_path):
    (tmp_path / "state").write_text(text)
    assert State.read(tmp_path / "state") == State()


@pytest.mark.parametrize(
    ("line", "password"),
    [
        ("requirepass plain", "plain"),
        ("  RequirePass   with#hash", "with#hash"),
        ("requirepass back\\slash", "back\\slash"),
        ('requirepass "two words"', "two words"),
        ('requirepass "a \\"quote\\""', 'a "quote"'),
        ("requirepass 'it\\'s'", "it's"),
        ('requirepass ""', ""),
        ("# requirepass comment", None),
        ("save 60 1000", None),
    ],
)
def test_a_password_is_read_as_redis_reads_it(line, password, tmp_path):
    path = tmp_path / "redis.conf"
    path.write_text(f"port 7000\n{line}\n")
    assert read_config(path).get("requirepass") == password
    assert read_config(path)["port"] == "7000"
