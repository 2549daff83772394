"""The newcomer's command, from nothing to an image, and what it says when that cannot be."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from acceptance.commands import ROOT, Place, eventually, free_ports, taken, temporary_place
from PIL import Image

pytestmark = pytest.mark.slow


@pytest.fixture
def place() -> Iterator[Place]:
    with temporary_place() as found:
        yield found
        eventually(found.is_quiet, "everything has ended")


def test_demo_once_ends_with_an_image_and_leaves_nothing_running(place):
    done = place.run("demo", "--once", "--env", "demo")
    assert done.returncode == 0, done.stderr
    assert place.left_behind() == []
    image = Path(re.search(r"image +(/.*\.png)", done.stdout)[1])
    assert image.is_relative_to(place.data_dir)
    with Image.open(image) as opened:
        assert (opened.format, opened.size) == ("PNG", (832, 1216))
    assert f"http://127.0.0.1:{place.api_port}/api/v1/contents/1/outputs/0" in done.stdout
    assert f"http://127.0.0.1:{place.api_port}/monitor/" in done.stdout
    assert "100 %  completed" in done.stdout
    assert "\r" not in done.stdout


def test_demo_draws_one_line_of_progress_and_runs_until_ctrl_c(place):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "app", "demo", "--env", "demo"]
    process = subprocess.Popen(command, cwd=ROOT, env=place.environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    with process:
        try:
            with suppress(OSError):  # which is how the end of a terminal shows
                while chunk := os.read(ours, 65536):
                    said += chunk
                    if b"Ctrl-C stops it" in said:
                        process.send_signal(signal.SIGINT)
                        break
                while os.read(ours, 65536):
                    pass
            assert process.wait(60) == 0
        finally:
            process.kill()
            os.close(ours)
    redrawn = re.findall(r"\r\x1b\[K  [█░]{40} +(\d+) %", said.decode())
    assert len(redrawn) > 5
    assert list(map(int, redrawn)) == sorted(map(int, redrawn))
    assert redrawn[-1] == "100"


@pytest.mark.parametrize(("command", "setting"), [("demo", "API_PORT"), ("demo", "STANDIN_PORT"), ("up", "API_PORT")])
def test_a_busy_port_is_one_sentence_that_names_port_and_setting(place, command, setting):
    port = int(place.environment[setting])
    with taken(port):
        done = place.run(command, "--env", "demo")
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(
        rf"Port {port} is in use by another program: .* set {setting} to a free port, .*\n", done.stderr
    )
    assert not any(place.data_dir.glob("postgres"))


def test_the_demo_serves_on_8001_unless_a_port_is_chosen(place):
    without = {name: value for name, value in place.environment.items() if name != "API_PORT"}
    place.environment = without
    program = (sys.executable, "-c", "from app.commands import demo; print(demo.port_is_chosen())")
    assert place.run(program=program).stdout == "False\n"
    assert place.run(program=program, api_port="8005").stdout == "True\n"


def test_an_image_that_does_not_come_to_be_is_a_failure(place):
    (port,) = free_ports(1)
    fault = json.dumps({"kind": "node_error", "message": "the paint has run out", "times": None})
    with place.running("--port", str(port), "--fault", fault, module="worker.standin") as standin:
        standin.says("listens on")
        done = place.run("demo", "--once", "--env", "demo", COMFYUI_URLS=f"http://127.0.0.1:{port}")
        standin.ends(signal.SIGTERM)
    assert done.returncode == 1
    assert "Job 1 has failed: " in done.stderr
    assert "the paint has run out" in done.stderr
    assert "Traceback" not in done.stderr
