"""Settings that make no sense, and commands that do not exist, are answered with one clear text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from acceptance.commands import Place, taken, temporary_place

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with temporary_place() as found:
        yield found


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("API_PORT", "eight thousand"),
        ("COMFYUI_URLS", "127.0.0.1:8188"),
        ("API_HOST", "api.example"),
        ("GENONAUT_ENV", "production"),
    ],
)
def test_a_wrong_setting_is_one_sentence_that_names_it(place, setting, value):
    done = place.run("up", **{setting: value})
    assert done.returncode == 1
    assert done.stdout == ""
    assert setting in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("command", "setting"), [("serve", "API_PORT"), ("monitor", "MONITOR_PORT")])
def test_a_server_names_the_setting_of_its_busy_port(place, command, setting):
    port = int(place.environment[setting])
    with taken(port):
        done = place.run(command, "--env", "test")
    assert done.returncode == 1
    assert done.stderr.startswith(f"Port {port} is in use by another program")
    assert setting in done.stderr


def test_an_unknown_command_is_answered_with_those_that_exist(place):
    done = place.run("fly")
    assert done.returncode == 2
    for command in ("serve", "monitor", "up", "demo", "migrate", "redis-flush", "workers", "cron-status"):
        assert command in done.stderr
